//! What statements say, and what they must never say.

use proptest::prelude::*;

use super::{Statement, analyse};

fn read(sql: &str) -> Statement {
    analyse(sql.as_bytes(), false, false)
}

fn text(sql: &str) -> String {
    read(sql).text.to_string()
}

fn target(sql: &str) -> (String, String) {
    let statement = read(sql);
    let show = |part: Option<std::sync::Arc<str>>| part.map_or_else(String::new, |p| p.to_string());
    (show(statement.operation), show(statement.table))
}

#[test]
fn verbs_and_tables() {
    let cases = [
        ("SELECT * FROM agents WHERE id = ?", "SELECT", "agents"),
        ("select a from main.Agents a join b on 1", "SELECT", "Agents"),
        ("SELECT 1", "SELECT", ""),
        ("SELECT (SELECT x FROM inner_t) FROM \"outer t\"", "SELECT", "outer t"),
        ("SELECT * FROM (SELECT * FROM deep WHERE 1) AS x", "SELECT", "deep"),
        ("SELECT * FROM (a JOIN b USING (id))", "SELECT", "a"),
        ("SELECT * FROM (VALUES (1))", "SELECT", ""),
        ("SELECT * FROM json_each(?)", "SELECT", ""),
        ("SELECT a IS NOT DISTINCT FROM b FROM c", "SELECT", "c"),
        ("SELECT 1 WHERE EXISTS (SELECT 1 FROM t)", "SELECT", ""),
        ("SELECT 1 UNION SELECT a FROM t", "SELECT", ""),
        ("WITH x AS (SELECT * FROM real_t) SELECT * FROM x", "SELECT", "real_t"),
        (
            "WITH x(a) AS NOT MATERIALIZED (SELECT 1), y AS (SELECT * FROM x) SELECT * FROM y",
            "SELECT",
            "",
        ),
        (
            "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c) SELECT * FROM c",
            "SELECT",
            "",
        ),
        ("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", "INSERT", "t"),
        ("WITH x AS (SELECT 1) DELETE FROM `t`", "DELETE", "t"),
        ("INSERT OR IGNORE INTO [my t] (a) VALUES (1)", "INSERT", "my t"),
        ("REPLACE INTO t VALUES (1)", "REPLACE", "t"),
        ("UPDATE OR ROLLBACK t SET a = 1", "UPDATE", "t"),
        ("UPDATE main.t SET a = (SELECT 1 FROM u)", "UPDATE", "t"),
        ("DELETE FROM t", "DELETE", "t"),
        ("CREATE TABLE IF NOT EXISTS t (a)", "CREATE", "t"),
        ("CREATE UNIQUE INDEX i ON t(a)", "CREATE", "t"),
        ("CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM u; END", "CREATE", "t"),
        ("CREATE VIRTUAL TABLE v USING fts5(a)", "CREATE", "v"),
        ("DROP TABLE IF EXISTS t", "DROP", "t"),
        ("DROP INDEX i", "DROP", ""),
        ("ALTER TABLE t ADD COLUMN b", "ALTER", "t"),
        ("  -- note\n BEGIN IMMEDIATE", "BEGIN", ""),
        ("COMMIT", "COMMIT", ""),
        ("ROLLBACK TO SAVEPOINT _sqlx_savepoint_1", "ROLLBACK", ""),
        ("PRAGMA journal_mode=WAL", "PRAGMA", ""),
        ("EXPLAIN QUERY PLAN SELECT * FROM t", "EXPLAIN", "t"),
        ("nonsense FROM t", "", ""),
        ("", "", ""),
        ("WITH x AS (SELECT 1", "", ""),
        ("SELECT * FROM 'quoted'", "SELECT", ""),
    ];
    for (sql, verb, table) in cases {
        assert_eq!(target(sql), (verb.to_owned(), table.to_owned()), "{sql}");
    }
    let summary = |sql| read(sql).summary.map(|s| s.to_string());
    assert_eq!(summary("create table t(a)").as_deref(), Some("CREATE TABLE t"));
    assert_eq!(summary("select * from t").as_deref(), Some("SELECT t"));
    assert_eq!(summary("commit").as_deref(), Some("COMMIT"));
    assert_eq!(summary("?"), None);
}

#[test]
fn literals_are_replaced() {
    let cases = [
        ("SELECT 'it''s' , 12.5e3, x'AB', -7", "SELECT ? , ?, ?, -?"),
        ("SELECT a/*'x'*/,b -- 'y'\n FROM t", "SELECT a ,b FROM t"),
        ("SELECT \"a\".\"b\" FROM \"t\" AS \"u\"", "SELECT \"a\".\"b\" FROM \"t\" AS \"u\""),
        // SQLite takes the second for a string where there is no such column.
        ("SELECT x FROM t WHERE x = \"secret\"", "SELECT x FROM t WHERE x = ?"),
        (
            "INSERT INTO t (\"a\", b) VALUES (\"secret\", ?1, :name, @x, $y)",
            "INSERT INTO t (\"a\", b) VALUES (?, ?1, :name, @x, $y)",
        ),
        (
            "UPDATE t SET \"a\" = \"secret\", \"b\" = 1 WHERE \"c\" = 2",
            "UPDATE t SET \"a\" = ?, \"b\" = ? WHERE ? = ?",
        ),
        (
            "CREATE TABLE \"t\" (\"a\" TEXT DEFAULT \"secret\", \"b\" INT)",
            "CREATE TABLE \"t\" (\"a\" TEXT DEFAULT ?, \"b\" INT)",
        ),
        ("SELECT a IS DISTINCT FROM \"secret\" FROM t", "SELECT a IS DISTINCT FROM ? FROM t"),
        ("SELECT 1_000, 0x1F, 1e5secret, 12abc", "SELECT ?, ?, ?, ?"),
        ("PRAGMA key = 'secret'", "PRAGMA key ?"),
        ("PRAGMA main.rekey(secret)", "PRAGMA main.rekey?"),
        ("ATTACH DATABASE 'f' AS d KEY secret", "ATTACH DATABASE ? AS d KEY ?"),
        ("SELECT n'a\\', 'secret', 'b'", "SELECT n?, ?, ?"),
        ("SELECT json ->> '$.a' FROM t", "SELECT json ->> ? FROM t"),
    ];
    for (sql, expected) in cases {
        assert_eq!(text(sql), expected, "{sql}");
    }
}

#[test]
fn a_text_that_was_cut_shows_nothing_of_what_was_cut() {
    let whole = "INSERT INTO notes (a, b) VALUES ('my secret is long', 424242, x'C0FFEE')";
    for end in 0..whole.len() {
        let cut = analyse(&whole.as_bytes()[..end], true, false);
        for piece in ["my", "secret", "long", "4242", "C0FF"] {
            assert!(!cut.text.contains(piece), "{} of {}", cut.text, &whole[..end]);
        }
        assert!(cut.text.ends_with('…'), "{}", cut.text);
        // `notes` may go on as long as nothing follows it.
        let named = cut.table.as_deref();
        assert!(named.is_none() || named == Some("notes"), "{named:?} of {}", &whole[..end]);
    }
    let cut = analyse(b"SELECT * FROM main", true, false);
    assert_eq!((cut.table, cut.operation.as_deref()), (None, Some("SELECT")));
    // In the middle of a character.
    assert_eq!(
        &*analyse("SELECT 'ä".as_bytes().split_last().unwrap().1, true, false).text,
        "SELECT …"
    );
}

#[test]
fn literals_stay_where_they_are_asked_for_and_credentials_do_not() {
    let sql = "SELECT 'plain', 'sk-ant-REDACTED' FROM t";
    let shown = analyse(sql.as_bytes(), false, true);
    assert_eq!(&*shown.text, "SELECT 'plain', '[redacted]' FROM t");
}

/// Pieces whose literals all contain `Zq`, which nothing else does.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "SELECT",
            "FROM",
            "t",
            ",",
            "(",
            ")",
            "=",
            "WHERE",
            "INSERT INTO",
            "VALUES",
            "SET",
            "--\n",
            "/* x */",
            ".",
            "\n",
            "?",
            ":p",
            "$v",
            "@",
            "n",
            "x",
            "E",
            "U&",
            "q",
            "CREATE TABLE",
            "ON",
            "#",
            "AS",
            "IN",
            "1",
            "0x",
            "\\",
            "$$",
            "`c`",
            "[d]",
            "\"e\".f",
            ";",
            "PRAGMA",
            "UPDATE",
            "||",
        ])
        .prop_map(str::to_owned),
        "Zq[a-z0-9 ,()'\\\\/*-]{0,8}".prop_map(|s| format!("'{}'", s.replace('\'', "''"))),
        "Zq[a-z0-9]{0,6}".prop_map(|s| format!("1{s}")),
        "Zq[a-z ,()\\\\-]{0,6}".prop_map(|s| format!("= \"{s}\"")),
        "Zq[a-z '\"]{0,6}".prop_map(|s| format!("/* {s} */")),
        "Zq[a-z '\"]{0,6}".prop_map(|s| format!("-- {s}\n")),
    ]
}

proptest! {
    #[test]
    fn nothing_of_a_literal_is_shown(
        pieces in prop::collection::vec(piece(), 0..24),
        cut in any::<prop::sample::Index>(),
        gap in prop::sample::select(vec![" ", ""]),
    ) {
        let sql = pieces.join(gap);
        // Glued together, the pieces may be anything, but a literal only where SQLite sees one:
        // so whole statements only where they are spaced.
        let end = cut.index(sql.len() + 1);
        if gap == " " && balanced(&pieces) {
            prop_assert!(!text(&sql).contains("Zq"), "{} of {}", text(&sql), sql);
            let cut = analyse(&sql.as_bytes()[..end], true, false);
            prop_assert!(!cut.text.contains("Zq"), "{} of {}", cut.text, &sql[..end]);
        } else {
            text(&sql);
        }
    }

    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..600), truncated: bool) {
        let read = analyse(&bytes, truncated, false);
        prop_assert!(!read.text.chars().any(char::is_control));
        prop_assert!(read.text.len() <= super::super::redact::MAX_TEXT + 4);
        analyse(&bytes, truncated, true);
    }
}

/// Beside a dot, what is in double quotes is certainly a name.
fn balanced(pieces: &[String]) -> bool {
    let has = |start: &str| pieces.iter().any(|piece| piece.starts_with(start));
    !(has("= \"") && has("."))
}

#[test]
fn deep_nesting_ends_soon() {
    let deep = format!("SELECT * FROM {}t{}", "(".repeat(4000), ")".repeat(4000));
    assert_eq!(target(&deep).1, "");
    let with = (0..200).map(|n| format!("c{n} AS (SELECT * FROM c{})", n - 1)).collect::<Vec<_>>();
    assert_eq!(target(&format!("WITH {} SELECT * FROM c199", with.join(", "))).1, "");
}

#[test]
fn the_fuzzers_corpus_is_read() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/sql");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        for end in 0..=bytes.len() {
            for literals in [false, true] {
                let read = analyse(&bytes[..end], end < bytes.len(), literals);
                assert!(!read.text.chars().any(char::is_control), "{read:?}");
            }
        }
        seen += 1;
    }
    assert!(seen > 10, "{seen} files");
}
