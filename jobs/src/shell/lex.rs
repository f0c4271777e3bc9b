//! Owns the cutting of SQL into tokens and statements, as far as a shell needs it: where a statement
//! ends, and what stands before the cursor. It knows quotes, comments and dollar quotes as the SQL
//! parser does (PostgreSQL's rules: block comments nest, `E'…'` has backslash escapes).

/// One statement of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement<'a> {
    /// The statement from its first word on, without the `;`.
    pub sql: &'a str,
    /// The line of the script where `sql` starts, counted from 1.
    pub line: usize,
    /// Everything that belongs to it: what stands before it, and its `;`. The raw texts of a script's
    /// statements, joined, are the script.
    pub raw: &'a str,
}

/// The statements of a script, in order. They end at a `;` outside quotes and comments, the last one
/// also at the end of the text; a shell command (`\d`) ends with its line. What holds no statement
/// (blank lines, comments, a lone `;`) belongs to the raw text of the statement after it, or at the
/// end of the one before it; a text without any statement gives none.
pub fn split_statements(text: &str) -> Vec<Statement<'_>> {
    let mut statements: Vec<Statement<'_>> = Vec::new();
    let mut raw_start = 0;
    let mut line = LineCount {
        text,
        at: 0,
        line: 1,
    };
    for piece in pieces(text) {
        let Some(start) = piece.sql_start else {
            continue;
        };
        statements.push(Statement {
            sql: text[start..piece.sql_end].trim_end(),
            line: line.at(start),
            raw: &text[raw_start..piece.end],
        });
        raw_start = piece.end;
    }
    if let Some(last) = statements.last_mut() {
        // Both are slices of `text` that meet, so the longer one starts where the last one does.
        let start = raw_start - last.raw.len();
        last.raw = &text[start..];
    }
    statements
}

/// Whether `text` can be run as it is: every statement in it has ended.
pub(super) fn is_complete(text: &str) -> bool {
    pieces(text)
        .last()
        .is_none_or(|last| last.ended || (last.sql_start.is_none() && !last.open))
}

/// Counts lines up to growing positions.
struct LineCount<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl LineCount<'_> {
    fn at(&mut self, position: usize) -> usize {
        self.line += self.text[self.at..position].matches('\n').count();
        self.at = position;
        self.line
    }
}

/// A stretch of text up to and including the end of a statement. Pieces cover the text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) start: usize,
    pub(super) end: usize,
    /// Where the first token stands that is neither blank nor comment nor `;`.
    sql_start: Option<usize>,
    sql_end: usize,
    /// Whether it has its `;`, or is a shell command.
    pub(super) ended: bool,
    /// Whether a quote or comment in it is not closed.
    open: bool,
}

/// Cuts `text` behind every `;` that ends a statement and behind every shell command.
pub(super) fn pieces(text: &str) -> Vec<Piece> {
    let mut found = Vec::new();
    let mut lexer = Lexer { text, at: 0 };
    let mut piece = Piece {
        start: 0,
        end: 0,
        sql_start: None,
        sql_end: 0,
        ended: false,
        open: false,
    };
    while let Some(token) = lexer.next() {
        match token.kind {
            Kind::Blank | Kind::Comment => {}
            Kind::Semicolon => {}
            Kind::Other if piece.sql_start.is_none() && token.text(text) == "\\" => {
                piece.sql_start = Some(token.start);
                lexer.at = text[token.start..]
                    .find('\n')
                    .map_or(text.len(), |length| token.start + length);
                piece.sql_end = lexer.at;
            }
            _ => {
                piece.sql_start = piece.sql_start.or(Some(token.start));
                piece.sql_end = token.end;
            }
        }
        piece.open = token.open;
        piece.end = lexer.at;
        let is_command = piece
            .sql_start
            .is_some_and(|start| text[start..].starts_with('\\'));
        piece.ended = token.kind == Kind::Semicolon || is_command;
        if piece.ended {
            found.push(piece);
            let start = lexer.at;
            piece = Piece {
                start,
                end: start,
                sql_start: None,
                sql_end: start,
                ended: false,
                open: false,
            };
        }
    }
    if piece.end > piece.start {
        found.push(piece);
    }
    found
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Blank,
    Comment,
    /// A text literal, also in dollar quotes.
    Text,
    /// An identifier in quotes.
    QuotedName,
    /// A keyword, name or number.
    Word,
    Semicolon,
    /// Any other single character.
    Other,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
    /// Whether the text ended before the closing quote or comment end.
    pub(super) open: bool,
}

impl Token {
    pub(super) fn text(self, text: &str) -> &str {
        &text[self.start..self.end]
    }
}

/// The tokens of `text`, which cover it without a gap.
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        let start = self.at;
        let rest = &self.text[start..];
        let first = rest.chars().next()?;
        let (kind, length) = match first {
            c if c.is_whitespace() => (Kind::Blank, Some(run(rest, char::is_whitespace))),
            '-' if rest.starts_with("--") => {
                (Kind::Comment, Some(rest.find('\n').unwrap_or(rest.len())))
            }
            '/' if rest.starts_with("/*") => (Kind::Comment, block_comment(rest)),
            '\'' => (Kind::Text, quoted(rest, '\'', false)),
            'e' | 'E' if rest[1..].starts_with('\'') => (
                Kind::Text,
                quoted(&rest[1..], '\'', true).map(|length| length + 1),
            ),
            '"' | '`' => (Kind::QuotedName, quoted(rest, first, false)),
            ';' => (Kind::Semicolon, Some(1)),
            '$' => match dollar_tag(rest) {
                Some(tag) => {
                    let body = &rest[tag.len()..];
                    (
                        Kind::Text,
                        body.find(tag).map(|length| length + 2 * tag.len()),
                    )
                }
                None => (Kind::Other, Some(1)),
            },
            c if is_word(c) => (Kind::Word, Some(run(rest, is_word))),
            c => (Kind::Other, Some(c.len_utf8())),
        };
        self.at = start + length.unwrap_or(rest.len());
        Some(Token {
            kind,
            start,
            end: self.at,
            open: length.is_none(),
        })
    }
}

/// A `$` inside a word belongs to it, so `a$b$` opens no quote.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

fn run(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|c| !belongs(c)).unwrap_or(text.len())
}

/// The length of a quoted text with its quotes, or `None` where it isn't closed. A doubled quote
/// stands for one.
fn quoted(text: &str, quote: char, escapes: bool) -> Option<usize> {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((index, c)) = chars.next() {
        if escapes && c == '\\' {
            chars.next();
        } else if c == quote {
            if chars.peek().is_none_or(|(_, next)| *next != quote) {
                return Some(index + quote.len_utf8());
            }
            chars.next();
        }
    }
    None
}

fn block_comment(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut at = 0;
    let bytes = text.as_bytes();
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => {
                depth += 1;
                at += 2;
            }
            b"*/" => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => at += 1,
        }
    }
    None
}

/// `$tag$` or `$$` at the start of `text`; `$1` is a parameter.
fn dollar_tag(text: &str) -> Option<&str> {
    let name = run(&text[1..], |c| c.is_alphanumeric() || c == '_');
    let starts_with_digit = text[1..].starts_with(|c: char| c.is_ascii_digit());
    (!starts_with_digit && text[1 + name..].starts_with('$')).then(|| &text[..name + 2])
}
