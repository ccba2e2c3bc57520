//! Whether somebody listens where spans are to go: worth a warning, never a failure.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::export::Endpoint;

/// How long all of it may take; a name that cannot be resolved takes longer than this.
const PATIENCE: Duration = Duration::from_secs(2);

/// A warning for each endpoint that nobody answers at.
pub(super) fn unreachable(endpoints: &[Endpoint]) -> Vec<String> {
    let until = Instant::now() + PATIENCE;
    let asked: Vec<_> = endpoints
        .iter()
        .map(|endpoint| {
            let (tell, told) = mpsc::channel();
            let url = endpoint.url();
            let host = url.host_str().unwrap_or_default().to_owned();
            let port = url.port_or_known_default().unwrap_or(0);
            // Resolving a name cannot be given a time: it is left behind when it takes too long.
            let asking = thread::Builder::new()
                .name("reach".to_owned())
                .spawn(move || tell.send(connect(&host, port)));
            (endpoint, asking.is_ok(), told)
        })
        .collect();
    let mut warnings = vec![];
    for (endpoint, asked, told) in asked {
        let left = until.saturating_duration_since(Instant::now());
        let why = match told.recv_timeout(left) {
            Ok(Ok(())) => continue,
            Ok(Err(why)) => why,
            // Nothing is known: then there is nothing to warn of.
            Err(_) if !asked => continue,
            Err(_) => format!("no connection within {} s", PATIENCE.as_secs()),
        };
        let shown = endpoint.display();
        warnings.push(format!("{shown} cannot be reached ({why}); spans are kept and tried again"));
    }
    warnings
}

fn connect(host: &str, port: u16) -> Result<(), String> {
    let host = host.trim_matches(['[', ']']);
    let addresses = (host, port).to_socket_addrs().map_err(|error| error.to_string())?;
    let mut why = "the name has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => return Ok(()),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn only_who_does_not_answer_is_warned_of() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = |host: &str, port: u16| {
            Endpoint::otlp(Some(&format!("http://{host}:{port}")), None, |_| None).unwrap()
        };
        let there = endpoint("127.0.0.1", listener.local_addr().unwrap().port());
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let nobody = endpoint("127.0.0.1", closed);
        let warnings = unreachable(&[there, nobody.clone()]);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].starts_with(&nobody.display()), "{warnings:?}");
    }
}
