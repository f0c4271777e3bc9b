//! Values of JSON texts, moved straight into columns.

use jiter::{Jiter, JiterError, Peek};

use super::cell::Cell;
use super::column::Column;

/// The next value in words; consumes it.
pub fn described(jiter: &mut Jiter<'_>, peek: Peek) -> Result<String, JiterError> {
    Ok(match peek {
        Peek::Null => {
            jiter.known_null()?;
            Cell::Null.describe()
        }
        Peek::True | Peek::False => Cell::Bool(jiter.known_bool(peek)?).describe(),
        Peek::String => Cell::Text(jiter.known_str()?).describe(),
        Peek::Array | Peek::Object => {
            let start = jiter.current_index();
            jiter.known_skip(peek)?;
            Cell::Json(&String::from_utf8_lossy(jiter.slice_to_current(start))).describe()
        }
        _ => Cell::Number(&String::from_utf8_lossy(jiter.next_number_bytes()?)).describe(),
    })
}

/// Why a value of a JSON text was not moved.
#[derive(Debug)]
pub enum PutError {
    /// It is no JSON.
    Syntax(JiterError),
    /// It does not fit the column: the end of a sentence that names the field.
    Value(String),
}

impl From<JiterError> for PutError {
    fn from(error: JiterError) -> Self {
        Self::Syntax(error)
    }
}

/// Moves the next value into `column`.
pub fn put_json(jiter: &mut Jiter<'_>, peek: Peek, column: &mut Column) -> Result<(), PutError> {
    let put = match peek {
        Peek::String => column.put(Cell::Text(jiter.known_str()?)),
        Peek::Null => {
            jiter.known_null()?;
            column.put(Cell::Null)
        }
        Peek::True | Peek::False => column.put(Cell::Bool(jiter.known_bool(peek)?)),
        Peek::Array if column.is_list() => {
            let filled = column.put_list(|item| {
                let mut next = jiter.known_array()?;
                while let Some(peek) = next {
                    put_json(jiter, peek, item)?;
                    next = jiter.array_step()?;
                }
                Ok(())
            });
            return filled.unwrap_or(Ok(()));
        }
        Peek::Array | Peek::Object => {
            let start = jiter.current_index();
            jiter.known_skip(peek)?;
            column.put(Cell::Json(&String::from_utf8_lossy(
                jiter.slice_to_current(start),
            )))
        }
        _ => {
            let digits = std::str::from_utf8(jiter.next_number_bytes()?)
                .map_err(|e| PutError::Value(e.to_string()))?;
            column.put(Cell::Number(digits))
        }
    };
    put.map_err(PutError::Value)
}

/// Appends a JSON array that stands in a text field to a column of lists, as CSV has it. After an error the column may
/// hold a NULL or nothing in its place.
pub fn put_list_text(text: &str, column: &mut Column) -> Result<(), String> {
    let mut jiter = Jiter::new(text.as_bytes());
    let read = jiter.peek().map_err(PutError::from).and_then(|peek| {
        put_json(&mut jiter, peek, column)?;
        jiter.finish().map_err(PutError::from)
    });
    read.map_err(|error| match error {
        PutError::Value(what) => what,
        PutError::Syntax(_) => format!(
            "expected a json array, found {}",
            Cell::Text(text).describe()
        ),
    })
}
