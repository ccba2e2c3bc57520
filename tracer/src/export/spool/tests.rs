//! Against real files.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn config(dir: &Path, max_bytes: u64) -> SpoolConfig {
    SpoolConfig { dir: dir.join("spool"), max_bytes }
}

fn segment_files(config: &SpoolConfig) -> Vec<PathBuf> {
    let entries = fs::read_dir(&config.dir).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "seg")).collect();
    found.sort();
    found
}

#[test]
fn what_is_kept_comes_back_in_order_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), 1 << 20);
    let mut spool = Spool::open(config.clone()).unwrap();
    assert_eq!(spool.next(), None);
    for n in 1..=4 {
        spool.append(7, n, &[n as u8; 100]).unwrap();
    }
    assert_eq!(spool.unread(), 10);
    let first = spool.next().unwrap();
    assert_eq!((first.tag, first.spans, &*first.payload), (7, 1, &[1; 100][..]));
    spool.done(first.place);
    let second = spool.next().unwrap();
    assert_eq!(second.spans, 2);
    assert!(spool.holds(second.place));
    // The second was handed out, but nobody said that it had arrived.
    drop(spool);
    let mut spool = Spool::open(config.clone()).unwrap();
    assert_eq!(spool.unread(), 9);
    let mut spans = vec![];
    while let Some(record) = spool.next() {
        spans.push(record.spans);
        spool.done(record.place);
    }
    assert_eq!(spans, [2, 3, 4]);
    assert_eq!(spool.take_lost(), Lost::default());
    assert!(segment_files(&config).is_empty(), "nothing waits, and something is on disk");
    // And it can be used again.
    spool.append(8, 5, b"x").unwrap();
    assert_eq!(spool.next().unwrap().spans, 5);
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), 1 << 20);
    let spool = Spool::open(config.clone()).unwrap();
    assert!(Spool::open(config.clone()).unwrap_err().to_string().contains("another process"));
    drop(spool);
    assert!(Spool::open(config).is_ok());
}

#[test]
fn the_oldest_go_when_it_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), 64 << 10);
    let mut spool = Spool::open(config.clone()).unwrap();
    for n in 0..200_u64 {
        spool.append(n, 1, &[0; 1000]).unwrap();
        let on_disk: u64 =
            segment_files(&config).iter().map(|path| path.metadata().unwrap().len()).sum();
        assert!(on_disk <= 64 << 10, "{on_disk}");
    }
    let lost = spool.take_lost();
    let evicted: Vec<u64> = lost.evicted.iter().map(|(tag, _)| *tag).collect();
    assert!(evicted.len() > 100 && lost.corrupt.is_empty() && lost.unknown == 0);
    assert_eq!(evicted, (0..evicted.len() as u64).collect::<Vec<_>>());
    let mut left = vec![];
    while let Some(record) = spool.next() {
        left.push(record.tag);
        spool.done(record.place);
    }
    assert_eq!(left, (evicted.len() as u64..200).collect::<Vec<_>>());
}

#[test]
fn what_was_changed_on_disk_is_skipped_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), 1 << 20);
    let mut spool = Spool::open(config.clone()).unwrap();
    for n in 1..=3 {
        spool.append(n, 10, &[n as u8; 100]).unwrap();
    }
    drop(spool);
    let file = segment_files(&config).remove(0);
    let mut bytes = fs::read(&file).unwrap();
    let second = MAGIC.len() + (segment::HEADER + 100) + segment::HEADER;
    bytes[second + 50] ^= 1;
    // And the last was cut off.
    bytes.truncate(bytes.len() - 1);
    fs::write(&file, bytes).unwrap();
    let mut spool = Spool::open(config.clone()).unwrap();
    assert_eq!(spool.unread(), 20);
    let record = spool.next().unwrap();
    assert_eq!(record.tag, 1);
    spool.done(record.place);
    spool.append(4, 10, b"new").unwrap();
    assert_eq!(spool.next().unwrap().tag, 4);
    assert_eq!(spool.take_lost(), Lost { evicted: vec![], corrupt: vec![(2, 10)], unknown: 1 });
    // Something else altogether.
    drop(spool);
    for file in segment_files(&config) {
        fs::write(file, "not a segment, but long enough for a header").unwrap();
    }
    let mut spool = Spool::open(config).unwrap();
    assert_eq!(spool.next(), None);
    assert_eq!(spool.take_lost().unknown, 1);
}

#[test]
fn damage_in_a_run_is_counted_to_the_span() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), 1 << 20);
    let mut spool = Spool::open(config.clone()).unwrap();
    for n in 1..=3 {
        spool.append(n, 10, &[0; 100]).unwrap();
    }
    let first = spool.next().unwrap();
    spool.done(first.place);
    let file = segment_files(&config).remove(0);
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..MAGIC.len() + segment::HEADER + 100 + 3]).unwrap();
    assert_eq!(spool.next(), None);
    assert_eq!(spool.take_lost().corrupt, [(0, 20)]);
    assert_eq!(spool.unread(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Append { spans: u32, bytes: usize },
    Send,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..50_u32, 0..3_000_usize).prop_map(|(spans, bytes)| Step::Append { spans, bytes }),
        3 => Just(Step::Send),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A queue in order: every record comes out once and whole, or was evicted and counted.
    #[test]
    fn behaves_as_a_queue(steps in prop::collection::vec(step(), 1..120)) {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), 40 << 10);
        let mut spool = Spool::open(config.clone()).unwrap();
        let mut expected: VecDeque<(u64, u64, usize)> = VecDeque::new();
        let mut tag = 0;
        for step in steps {
            match step {
                Step::Append { spans, bytes } => {
                    tag += 1;
                    spool.append(tag, spans, &vec![tag as u8; bytes]).unwrap();
                    expected.push_back((tag, u64::from(spans), bytes));
                }
                Step::Send => {
                    let record = spool.next();
                    for (tag, spans) in spool.take_lost().evicted {
                        let (lost, count, _) = expected.pop_front().unwrap();
                        prop_assert_eq!((tag, spans), (lost, count));
                    }
                    let found = record.as_ref().map(|r| (r.tag, r.spans, r.payload.len()));
                    prop_assert_eq!(found, expected.pop_front());
                    if let Some(record) = record {
                        prop_assert!(record.payload.iter().all(|byte| *byte == record.tag as u8));
                        spool.done(record.place);
                    }
                }
                Step::Restart => {
                    for _ in spool.take_lost().evicted {
                        expected.pop_front();
                    }
                    drop(spool);
                    spool = Spool::open(config.clone()).unwrap();
                }
            }
            let lost: u64 = spool.lost.evicted.iter().map(|(_, spans)| spans).sum();
            let waiting: u64 = expected.iter().map(|(_, spans, _)| spans).sum();
            prop_assert_eq!(spool.unread() + lost, waiting);
            prop_assert!(spool.lost.corrupt.is_empty() && spool.lost.unknown == 0);
        }
    }
}
