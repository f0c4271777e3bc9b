//! What can be wrong with a record of JSON, one thing at a time.

use super::good;

/// A record that can't be a fact: its bytes, the field at fault, and words of the reason.
pub(super) struct Bad {
    pub(super) raw: Vec<u8>,
    pub(super) field: Option<&'static str>,
    pub(super) reason: &'static str,
}

/// What is wrong with records, one at a time.
pub(super) fn bad_records() -> Vec<Bad> {
    let mut records = Vec::new();
    let mut add = |raw: &[u8], field, reason| {
        records.push(Bad {
            raw: raw.to_vec(),
            field,
            reason,
        });
    };
    // Not JSON, or not an object.
    add(b"not json", None, "not valid json");
    add(b"{\"ts\":", None, "not valid json: EOF");
    add(
        b"{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":1",
        None,
        "not valid json: EOF",
    );
    add(
        b"{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":1} {}",
        None,
        "trailing characters",
    );
    add(b"{'ts':1}", None, "not valid json");
    add(b"[]", None, "expected a json object, found array");
    add(b"17", None, "expected a json object, found number 17");
    add(b"null", None, "expected a json object, found null");
    add(b"\"text\"", None, "expected a json object, found string");
    // Missing and NULL.
    add(b"{}", Some("ts"), "expected timestamp, found nothing");
    add(
        b"{\"ts\":\"2026-01-01T00:00:00Z\"}",
        Some("id"),
        "expected bigint, found nothing",
    );
    add(
        b"{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":null}",
        Some("id"),
        "found null",
    );
    // Types.
    add(
        b"{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":\"1\"}",
        Some("id"),
        "expected bigint, found string",
    );
    add(
        b"{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":1.5}",
        Some("id"),
        "digits that would be lost",
    );
    add(
        b"{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":9223372036854775808}",
        Some("id"),
        "out of range",
    );
    add(
        b"{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":1,\"word\":7}",
        Some("word"),
        "expected varchar",
    );
    add(
        b"{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":1,\"tags\":\"x\"}",
        Some("tags"),
        "expected varchar[]",
    );
    add(
        b"{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":1,\"tags\":[1]}",
        Some("tags"),
        "expected varchar",
    );
    add(
        b"{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":1,\"score\":1e999}",
        Some("score"),
        "out of range",
    );
    // Numbers that JSON does not have.
    add(
        b"{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":1,\"score\":NaN}",
        None,
        "not valid json",
    );
    add(
        b"{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":1,\"score\":Infinity}",
        None,
        "not valid json",
    );
    add(
        b"{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":1,\"score\":-Infinity}",
        None,
        "not valid json",
    );
    // Times.
    add(
        b"{\"ts\":\"2014-03-10T08:00:000Z\",\"id\":1}",
        Some("ts"),
        "send RFC 3339",
    );
    add(
        b"{\"ts\":\"1677-12-31T23:59:59Z\",\"id\":1}",
        Some("ts"),
        "outside the years 1678 to 2261",
    );
    add(
        b"{\"ts\":\"2262-01-01T00:00:00Z\",\"id\":1}",
        Some("ts"),
        "outside the years 1678 to 2261",
    );
    add(
        b"{\"ts\":\"2261-12-31T23:59:59-01:00\",\"id\":1}",
        Some("ts"),
        "outside the years 1678 to 2261",
    );
    add(b"{\"ts\":1394438400,\"id\":1}", Some("ts"), "send RFC 3339");
    add(
        b"{\"ts\":\"2026-02-29T00:00:00Z\",\"id\":1}",
        Some("ts"),
        "send RFC 3339",
    );
    // Names twice, bytes that are no text, and half a pair of surrogates.
    add(
        b"{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":1,\"id\":1}",
        Some("id"),
        "more than once",
    );
    add(
        b"{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":1,\"word\":\"\xff\"}",
        None,
        "not valid utf-8",
    );
    add(
        b"{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":1,\"word\":\"\xed\xa0\x80\"}",
        None,
        "not valid utf-8",
    );
    add(
        b"{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":1,\"word\":\"\\ud800\"}",
        None,
        "not valid json",
    );
    add(
        b"{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":1,\"odd\":\"\\udc00\"}",
        None,
        "not valid json",
    );
    // Depth: nothing may recurse as deep as its input says.
    let deep = |open: &str| open.repeat(10_000);
    add(deep("[").as_bytes(), None, "not valid json");
    add(deep("{\"a\":").as_bytes(), None, "not valid json");
    for field in ["odd", "word", "tags", "id"] {
        let line = format!(
            "{{\"ts\":\"2026-01-01T00:00:00Z\",\"{field}\":{}{}}}",
            deep("["),
            "]".repeat(10_000)
        );
        // A list's items are strings, so its second bracket is the fault; elsewhere it is the depth.
        add(line.as_bytes(), None, "not valid json");
    }
    // Over the bound of a record, which the project sets to 1 MB: the head is kept.
    let long = format!(
        "{{\"ts\":\"2026-01-01T00:00:00Z\",\"id\":1,\"word\":\"{}\"}}",
        "x".repeat(1_000_000)
    );
    add(
        long.as_bytes(),
        None,
        "longer than the topic's limit of 1000000 bytes",
    );
    records
}

/// Each bad record between good ones, with blank lines, CRLF, and no end of line at the end. Gives the bytes, and for
/// each bad record its line and its number.
pub(super) fn mixed(bad: &[Bad]) -> (Vec<u8>, Vec<(usize, usize)>, usize) {
    let (mut body, mut places) = (Vec::new(), Vec::new());
    let (mut line, mut record) = (1, 0);
    for (nth, bad) in bad.iter().enumerate() {
        body.extend_from_slice(good(record).as_bytes());
        body.extend_from_slice(if nth % 2 == 0 { b"\r\n" } else { b"\n" });
        if nth % 3 == 0 {
            body.extend_from_slice(b"\n \t\r\n");
            line += 2;
        }
        (line, record) = (line + 1, record + 1);
        places.push((line, record));
        body.extend_from_slice(&bad.raw);
        body.extend_from_slice(if nth % 5 == 0 { b"\r\n" } else { b"\n" });
        (line, record) = (line + 1, record + 1);
    }
    body.extend_from_slice(good(record).as_bytes());
    (body, places, record + 1)
}
