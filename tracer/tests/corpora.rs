//! Replays the corpora of the fuzz targets.

#[path = "../../fuzz/bodies.rs"]
mod bodies;

use std::fs;
use std::path::Path;

fn replay(target: &str, body: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in fs::read_dir(&corpus).expect("the corpus is committed") {
        let path = entry.expect("an entry of the corpus").path();
        let input = fs::read(&path).expect("an input");
        // Cut in other ways, too.
        for step in [1, 2, 3, 7, 64, 255] {
            let mut input = input.clone();
            if let Some(first) = input.first_mut() {
                *first = step;
            }
            body(&input);
        }
        inputs += 1;
    }
    assert!(inputs >= 3, "{inputs} inputs in {}", corpus.display());
}

#[test]
fn http() {
    replay("http", bodies::http);
}

#[test]
fn json() {
    replay("json", bodies::json);
}

#[test]
fn event_stream() {
    replay("event_stream", bodies::event_stream);
}

#[test]
fn gzip() {
    replay("gzip", bodies::gzip);
}
