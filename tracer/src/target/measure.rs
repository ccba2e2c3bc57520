//! A measurement by hand, on programs that are not in this repository.

use std::path::Path;

use super::*;

/// Prints what is found in the file that `TARGET_FILE` names: for measurements by hand.
#[test]
#[ignore = "a measurement; needs TARGET_FILE"]
fn measure() {
    let path = std::env::var_os("TARGET_FILE").expect("TARGET_FILE");
    let path = Path::new(&path);
    let started = std::time::Instant::now();
    let lap = |what: &str| println!("{:>8.1} ms  {what}", started.elapsed().as_secs_f64() * 1e3);
    let image = Image::open(path, path).expect("an image");
    for refused in [image.require_rust(), image.require_tokio()].into_iter().filter_map(Result::err)
    {
        println!("{refused}");
    }
    lap("symbols");
    let analysis = Analysis::new(&image);
    lap("scan");
    let wanted: Vec<_> =
        image.functions().iter().filter(|f| f.name.ends_with("{{closure}}")).collect();
    let coroutines = analysis.coroutines(&wanted);
    lap("coroutines");
    let inlined = analysis.inlined();
    lap("inlined");
    let landmarks = analysis.landmarks();
    lap("landmarks");
    let mut why: std::collections::BTreeMap<String, usize> = Default::default();
    let mut good = Vec::new();
    for (function, result) in wanted.iter().zip(coroutines) {
        match result {
            Ok(coroutine) => good.push(coroutine),
            Err(reason) => {
                let kind = format!("{reason:?}");
                let kind = kind.split([' ', '{']).next().unwrap_or_default().to_owned();
                if kind != "NotAsync" {
                    println!("{kind}: {} {reason}", function.symbol);
                }
                *why.entry(kind).or_default() += 1;
            }
        }
    }
    println!("copies {}", good.iter().map(|c| c.entries.len()).sum::<usize>());
    println!("closures {} coroutines {} others {why:?}", wanted.len(), good.len());
    let count = |what: &dyn Fn(&Coroutine) -> bool| good.iter().filter(|c| what(c)).count();
    println!(
        "entries emulated {}, exits none {}, at ret {}, emulated {}, located {}, drops {}",
        count(&|c| c.entries.iter().all(|e| e.cost == Cost::Emulated)),
        count(&|c| c.exits.is_empty()),
        count(&|c| c.exits.iter().any(|e| e.at_ret)),
        count(&|c| !c.exits.is_empty() && c.exits.iter().all(|e| e.site.cost == Cost::Emulated)),
        count(&|c| c.location.is_some()),
        count(&|c| !c.drops.is_empty()),
    );
    if std::env::var_os("TARGET_VERBOSE").is_some() {
        for c in &good {
            println!(
                "{} {:#x} {:?} size>={:#x} exits {} ret {} drops {} {:?}",
                c.function.name,
                c.entries[0].addr,
                c.state,
                c.size_at_least,
                c.exits.len(),
                c.exits.iter().any(|e| e.at_ret),
                c.drops.len(),
                c.location
            );
        }
        for body in &inlined {
            println!("inlined {body:?}");
        }
    }
    let own: std::collections::BTreeSet<_> =
        good.iter().filter_map(|c| c.location.clone()).collect();
    let held: std::collections::BTreeSet<_> =
        inlined.iter().map(|body| body.location.clone()).collect();
    let is_ours = |l: &&SourceLocation| l.file.starts_with("crates/") || l.file.starts_with("src/");
    println!(
        "inlined: {} (body, function) pairs, {} bodies, workspace: {} inlined somewhere, {} with \
         a function, {} in all",
        inlined.len(),
        held.len(),
        held.iter().filter(is_ours).count(),
        own.iter().filter(is_ours).count(),
        held.union(&own).filter(is_ours).count(),
    );
    let sites = |name: &str, sites: &[Site]| {
        let emulated = sites.iter().filter(|site| site.cost == Cost::Emulated).count();
        println!("{name}: {} ({emulated} emulated)", sites.len());
    };
    let exits = |name: &str, exits: &[ExitSite]| {
        let at_ret = exits.iter().filter(|exit| exit.at_ret).count();
        let emulated = exits.iter().filter(|exit| exit.site.cost == Cost::Emulated).count();
        println!("{name}: {} ({emulated} emulated, {at_ret} at ret)", exits.len());
    };
    println!("tokio {:?}, sql text {:?}", landmarks.tokio_version, landmarks.sql_text_offset);
    sites("task_poll", &landmarks.task_poll);
    exits("task_poll_exits", &landmarks.task_poll_exits);
    for exit in &landmarks.task_poll_exits {
        let start = image.symbols().start_of(exit.site.addr).expect("in a function");
        println!("  {:#x} in {:?}", exit.site.addr, image.names_at(start));
    }
    sites("task_bind", &landmarks.task_bind);
    sites("blocking_spawn", &landmarks.blocking_spawn);
    sites("task_dealloc", &landmarks.task_dealloc);
    sites("task_shutdown", &landmarks.task_shutdown);
    sites("wake", &landmarks.wake);
    sites("panic", &landmarks.panic);
    sites("http_send", &landmarks.http_send);
    sites("channel_send", &landmarks.channel_send);
    sites("channel_recv", &landmarks.channel_recv);
    sites("sql_step", &landmarks.sql_step);
    exits("sql_step_exits", &landmarks.sql_step_exits);
    sites("sql_reset", &landmarks.sql_reset);
    sites("sql_finalize", &landmarks.sql_finalize);
    println!("tls {:?}", analysis.tls_landmarks());
}

/// Prints what is found of the process that `TARGET_PID` names.
#[test]
#[ignore = "a measurement; needs TARGET_PID"]
fn measure_process() {
    let pid =
        std::env::var("TARGET_PID").ok().and_then(|pid| pid.parse().ok()).expect("TARGET_PID");
    let target = Target::open(pid).unwrap_or_else(|error| panic!("{error}"));
    println!("{target:#?}");
    if let Some(libssl) = &target.libssl {
        println!("{:#?}", Analysis::new(libssl).tls_landmarks());
    }
}
