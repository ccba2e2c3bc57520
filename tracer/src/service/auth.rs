//! Who is at the other end of a Unix socket, as the kernel vouches for it, and whether they may
//! steer the service.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;

use nix::unistd::Group;

/// A peer's credentials at the time it connected: a process cannot change them afterwards, nor
/// lend its id to another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Effective user id.
    pub uid: u32,
    /// Effective and supplementary group ids.
    pub groups: Vec<u32>,
    /// Process id, for logs only.
    pub pid: i32,
}

/// More groups than Linux allows (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;

impl Peer {
    /// Asks the kernel (`SO_PEERCRED`, `SO_PEERGROUPS`).
    ///
    /// # Errors
    /// It does not say.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = rustix::net::sockopt::socket_peercred(stream)?;
        let mut groups = supplementary(stream)?;
        groups.push(credentials.gid.as_raw());
        Ok(Self {
            uid: credentials.uid.as_raw(),
            groups,
            pid: credentials.pid.as_raw_nonzero().get(),
        })
    }

    /// Root and members of the group may do everything, all others nothing.
    pub fn may_steer(&self, group: Option<u32>) -> bool {
        self.uid == 0 || group.is_some_and(|group| self.groups.contains(&group))
    }
}

fn supplementary(stream: &UnixStream) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut bytes =
            libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(io::Error::other)?;
        // SAFETY: the buffer is as long as `bytes` says, and the kernel writes whole ids into it;
        // on ERANGE it writes the length that it needs to `bytes`, and nothing else.
        let failed = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &mut bytes,
            ) != 0
        };
        let count = bytes as usize / size_of::<u32>();
        if !failed {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count > MAX_GROUPS {
            return Err(error);
        }
        groups.resize(count.max(groups.len() * 2).min(MAX_GROUPS), 0);
    }
}

/// The id of a group: by its name, or a number.
pub fn group_id(name: &str) -> Option<u32> {
    match Group::from_name(name) {
        Ok(Some(group)) => Some(group.gid.as_raw()),
        Ok(None) | Err(_) => name.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_members_only() {
        let peer = |uid, groups: &[u32]| Peer { uid, groups: groups.to_vec(), pid: 1 };
        assert!(peer(0, &[]).may_steer(None));
        assert!(peer(0, &[0]).may_steer(Some(7)));
        assert!(peer(1000, &[1000, 7]).may_steer(Some(7)));
        assert!(!peer(1000, &[1000]).may_steer(Some(7)));
        assert!(!peer(1000, &[0]).may_steer(Some(7)), "root's group is not root");
        assert!(!peer(1000, &[1000]).may_steer(None));
    }

    #[test]
    fn the_kernel_says_who_is_there() {
        let (one, _two) = UnixStream::pair().unwrap();
        let peer = Peer::of(&one).unwrap();
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        assert_eq!(peer.pid, i32::try_from(std::process::id()).unwrap());
        assert!(peer.groups.contains(&rustix::process::getegid().as_raw()));
        for group in rustix::process::getgroups().unwrap() {
            assert!(peer.groups.contains(&group.as_raw()));
        }
    }

    #[test]
    fn groups_by_name_and_number() {
        assert_eq!(group_id("root"), Some(0));
        assert_eq!(group_id("4711"), Some(4711));
        assert_eq!(group_id("no-such-group-anywhere"), None);
    }
}
