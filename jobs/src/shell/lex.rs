//! Owns the cutting of SQL into statements, as far as a shell needs it: where a statement ends, what
//! stands before the cursor, and what is not closed yet. Tokens are those of the engine's own parser,
//! so that both agree on quotes, comments and dollar quotes.

use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect, MySqlDialect};
use datafusion::sql::sqlparser::tokenizer::{
    Location, Token as SqlToken, TokenWithSpan, Tokenizer, TokenizerError, Whitespace,
};

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
    /// Whether it has its `;`, or is a command. The last one of a text needs none; one before a
    /// command is for the command, such as `\gx`.
    pub ended: bool,
}

/// The statements of a script, in order. They end at a `;` outside quotes and comments, the last one
/// also at the end of the text; a shell command begins at a backslash outside them, and ends with its
/// line. What holds no statement (blank lines, comments, a lone `;`) belongs to the raw text of the
/// statement after it, or at the end of the one before it; a text without any statement gives none.
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
            ended: piece.ended,
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

/// What keeps a text from being run as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfinished {
    /// The last statement has no `;` yet.
    Statement,
    /// A parenthesis in it is open.
    Parenthesis,
    /// A text that began with `'`.
    Text,
    /// A text that began with `$tag$`.
    DollarText,
    /// A name that began with `"` or a backtick.
    Name,
    /// A comment that began with `/*`.
    Comment,
}

impl Unfinished {
    /// Whether whatever comes next is part of a text, a name or a comment.
    pub(super) fn takes_everything(self) -> bool {
        !matches!(self, Self::Statement | Self::Parenthesis)
    }
}

/// What of `text` is not finished; `None` where all of it can be run.
pub(super) fn unfinished(text: &str) -> Option<Unfinished> {
    let last = pieces(text).pop()?;
    match last.open {
        Some(kind) => Some(match kind {
            Kind::Comment => Unfinished::Comment,
            Kind::QuotedName => Unfinished::Name,
            Kind::Text if text[last.open_start..].starts_with('$') => Unfinished::DollarText,
            _ => Unfinished::Text,
        }),
        None if last.ended || last.sql_start.is_none() => None,
        None if last.depth > 0 => Some(Unfinished::Parenthesis),
        None => Some(Unfinished::Statement),
    }
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
    pub(super) sql_start: Option<usize>,
    sql_end: usize,
    /// Whether it has its `;`, or is a shell command.
    pub(super) ended: bool,
    /// The text, name or comment that is open at its end, if one is.
    open: Option<Kind>,
    /// Where its last token begins, which is the open one.
    open_start: usize,
    /// How many parentheses are open at its end.
    depth: usize,
}

impl Piece {
    fn at(start: usize) -> Self {
        Self {
            start,
            end: start,
            sql_start: None,
            sql_end: start,
            ended: false,
            open: None,
            open_start: start,
            depth: 0,
        }
    }

    fn take(&mut self, token: Token) {
        match token.kind {
            Kind::Blank | Kind::Comment | Kind::Semicolon => {}
            _ => {
                self.sql_start = self.sql_start.or(Some(token.start));
                self.sql_end = token.end;
            }
        }
        match token.kind {
            Kind::Open => self.depth += 1,
            Kind::Close => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.open = token.open.then_some(token.kind);
        self.open_start = token.start;
        self.end = token.end;
        self.ended = token.kind == Kind::Semicolon;
    }
}

/// Cuts `text` behind every `;` that ends a statement, and around every shell command.
pub(super) fn pieces(text: &str) -> Vec<Piece> {
    let mut found = Vec::new();
    let mut piece = Piece::at(0);
    let mut at = 0;
    while at < text.len() {
        let mut command = None;
        for token in tokens(&text[at..]) {
            let token = token.moved(at);
            if token.kind == Kind::Backslash {
                command = Some(token.start);
                break;
            }
            piece.take(token);
            if piece.ended {
                found.push(piece);
                piece = Piece::at(token.end);
            }
        }
        let Some(start) = command else { break };
        // What stands before it on its line is a statement of its own, unless it is nothing.
        if piece.sql_start.is_some() {
            found.push(piece);
            piece = Piece::at(start);
        }
        let end = text[start..].find('\n').map_or(text.len(), |n| start + n);
        found.push(Piece {
            end,
            sql_start: Some(start),
            sql_end: end,
            ended: true,
            open: None,
            ..piece
        });
        piece = Piece::at(end);
        at = end;
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
    /// `(` and `)`.
    Open,
    Close,
    /// With which commands of the shell begin; in SQL it means nothing.
    Backslash,
    /// Any other.
    Other,
}

impl Kind {
    fn of(token: &SqlToken) -> Self {
        match token {
            SqlToken::Whitespace(Whitespace::Space | Whitespace::Newline | Whitespace::Tab) => {
                Self::Blank
            }
            SqlToken::Whitespace(_) => Self::Comment,
            SqlToken::Word(word) if word.quote_style.is_some() => Self::QuotedName,
            SqlToken::Word(_) | SqlToken::Number(..) => Self::Word,
            SqlToken::SemiColon => Self::Semicolon,
            SqlToken::LParen => Self::Open,
            SqlToken::RParen => Self::Close,
            SqlToken::Backslash => Self::Backslash,
            SqlToken::SingleQuotedString(_)
            | SqlToken::DollarQuotedString(_)
            | SqlToken::EscapedStringLiteral(_)
            | SqlToken::NationalStringLiteral(_)
            | SqlToken::UnicodeStringLiteral(_)
            | SqlToken::HexStringLiteral(_)
            | SqlToken::SingleQuotedByteStringLiteral(_)
            | SqlToken::SingleQuotedRawStringLiteral(_) => Self::Text,
            _ => Self::Other,
        }
    }

    /// What begins with this and was not read to its end.
    fn of_open(text: &str) -> Self {
        match text.as_bytes().first() {
            Some(b'/') => Self::Comment,
            Some(b'"' | b'`') => Self::QuotedName,
            _ => Self::Text,
        }
    }
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

    fn moved(self, by: usize) -> Self {
        Self {
            start: self.start + by,
            end: self.end + by,
            ..self
        }
    }
}

/// The tokens of `text`, which cover it without a gap.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let (read, failed) = read(&GenericDialect {}, rest);
        let mut place = Place::at_start_of(rest);
        let start = at;
        for token in read {
            let end = start + place.byte_of(token.span.end);
            // The parts of a hint in a comment are told as tokens of the same place.
            if end == at {
                continue;
            }
            found.push(Token {
                kind: Kind::of(&token.token),
                start: at,
                end,
                open: false,
            });
            at = end;
        }
        let Some(error) = failed else { break };
        let token = stumbled_over(&text[at..], &error).moved(at);
        found.push(token);
        at = token.end;
    }
    found
}

fn read(dialect: &dyn Dialect, text: &str) -> (Vec<TokenWithSpan>, Option<TokenizerError>) {
    let mut read = Vec::new();
    let failed = Tokenizer::new(dialect, text).tokenize_with_location_into_buf(&mut read);
    (read, failed.err())
}

/// The token at the start of `text` that the tokenizer can't read: it is open, or wrong in itself,
/// which is the engine's to say.
fn stumbled_over(text: &str, error: &TokenizerError) -> Token {
    let is_open = ["Unterminated", "Unexpected EOF", "before EOF"];
    let is_open = is_open.iter().any(|said| error.message.contains(said));
    let token = |kind, end, open| Token {
        kind,
        start: 0,
        end,
        open,
    };
    // A wrong escape in `E'…'` is told as if the text were open.
    match escaped_text(text) {
        Some(end) => token(Kind::Text, end, false),
        None if is_open => token(Kind::of_open(text), text.len(), true),
        None => {
            let first = text.chars().next().map_or(0, char::len_utf8);
            token(Kind::Other, first, false)
        }
    }
}

/// The length of an `E'…'` at the start of `text` that is closed. MySQL's texts end as it does.
fn escaped_text(text: &str) -> Option<usize> {
    let quoted = text.strip_prefix(['e', 'E'])?;
    if !quoted.starts_with('\'') {
        return None;
    }
    let (read, _) = read(&MySqlDialect {}, quoted);
    let first = read.first()?;
    let end = Place::at_start_of(quoted).byte_of(first.span.end);
    matches!(first.token, SqlToken::SingleQuotedString(_)).then_some(end + 1)
}

/// Finds the bytes of growing places in lines and columns.
struct Place<'a> {
    rest: std::str::Chars<'a>,
    byte: usize,
    line: u64,
    column: u64,
}

impl<'a> Place<'a> {
    fn at_start_of(text: &'a str) -> Self {
        Self {
            rest: text.chars(),
            byte: 0,
            line: 1,
            column: 1,
        }
    }

    fn byte_of(&mut self, wanted: Location) -> usize {
        while (self.line, self.column) < (wanted.line, wanted.column) {
            let Some(c) = self.rest.next() else { break };
            (self.line, self.column) = match c {
                '\n' => (self.line + 1, 1),
                _ => (self.line, self.column + 1),
            };
            self.byte += c.len_utf8();
        }
        self.byte
    }
}
