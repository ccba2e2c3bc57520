//! `cargo xtask dist`: the Debian package.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{build, sh};

/// What to build.
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// Version of the package, instead of the workspace's
    #[arg(long)]
    pub version: Option<String>,
}

/// Builds it and returns where it is.
///
/// # Errors
/// Something does not build, or `dpkg-deb` is missing.
pub fn run(args: &Args) -> Result<PathBuf> {
    let program = build::tracer_only()?.tracer;
    let version = args.version.as_deref().unwrap_or(env!("CARGO_PKG_VERSION"));
    let arch = sh::output(Command::new("dpkg").arg("--print-architecture"))?;
    let dist = sh::target_dir().join("dist");
    let root = dist.join("root");
    match fs::remove_dir_all(&root) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    Tree { root: &root }.fill(&program)?;
    control(&root, version, &arch)?;
    let package = dist.join(format!("orchestrate-trace_{version}_{arch}.deb"));
    let mut deb = Command::new("dpkg-deb");
    deb.args(["--root-owner-group", "-Zxz", "-z2", "--build"]).arg(&root).arg(&package);
    sh::output(&mut deb)?;
    fs::remove_dir_all(&root)?;
    Ok(package)
}

/// The files that the package installs.
struct Tree<'a> {
    root: &'a Path,
}

impl Tree<'_> {
    fn put(&self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> Result<PathBuf> {
        let file = self.root.join(path);
        if let Some(dir) = file.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::write(&file, content).with_context(|| file.display().to_string())?;
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
        Ok(file)
    }

    fn fill(&self, program: &Path) -> Result<()> {
        let ours = |path: &str| {
            let file = sh::root().join(path);
            fs::read(&file).with_context(|| file.display().to_string())
        };
        let binary = fs::read(program).with_context(|| program.display().to_string())?;
        self.put("usr/bin/orchestrate-trace", binary, 0o755)?;
        let unit = ours("packaging/orchestrate-trace.service")?;
        self.put("usr/lib/systemd/system/orchestrate-trace.service", unit, 0o644)?;
        let users = ours("packaging/sysusers.conf")?;
        self.put("usr/lib/sysusers.d/orchestrate-trace.conf", users, 0o644)?;
        let config = ours("tracer/src/service/config.toml")?;
        self.put("etc/orchestrate-trace/config.toml", config, 0o640)?;

        let doc = "usr/share/doc/orchestrate-trace";
        self.put(&format!("{doc}/copyright"), copyright(&ours("LICENSE-MIT")?), 0o644)?;
        let changes = self.put(&format!("{doc}/changelog"), ours("CHANGELOG.md")?, 0o644)?;
        sh::output(Command::new("gzip").args(["-9n"]).arg(changes))?;
        for (shell, path) in [
            ("bash", "usr/share/bash-completion/completions/orchestrate-trace"),
            ("zsh", "usr/share/zsh/vendor-completions/_orchestrate-trace"),
            ("fish", "usr/share/fish/vendor_completions.d/orchestrate-trace.fish"),
        ] {
            let script = sh::output(Command::new(program).args(["completions", shell]))?;
            self.put(path, script + "\n", 0o644)?;
        }
        let pages = self.root.join("usr/share/man/man1");
        sh::output(Command::new(program).args(["man", "--dir"]).arg(&pages))?;
        for page in fs::read_dir(&pages)? {
            sh::output(Command::new("gzip").arg("-9n").arg(page?.path()))?;
        }
        Ok(())
    }
}

fn copyright(mit: &[u8]) -> Vec<u8> {
    let mut text = b"Licensed under MIT or Apache-2.0, at your option. Apache-2.0 is in \
                     /usr/share/common-licenses/Apache-2.0; MIT is this:\n\n"
        .to_vec();
    text.extend_from_slice(mit);
    text
}

fn control(root: &Path, version: &str, arch: &str) -> Result<()> {
    let packaging = sh::root().join("packaging/deb");
    let debian = root.join("DEBIAN");
    let kib = sh::output(Command::new("du").args(["-sk", "--apparent-size"]).arg(root))?;
    let kib = kib.split_whitespace().next().unwrap_or("0").to_owned();
    fs::create_dir_all(&debian)?;
    let control = fs::read_to_string(packaging.join("control"))?
        .replace("@VERSION@", version)
        .replace("@ARCH@", arch)
        .replace("@SIZE@", &kib);
    fs::write(debian.join("control"), control)?;
    fs::write(debian.join("conffiles"), "/etc/orchestrate-trace/config.toml\n")?;
    for script in ["postinst", "prerm", "postrm"] {
        let to = debian.join(script);
        fs::copy(packaging.join(script), &to)?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}
