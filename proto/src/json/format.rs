//! Writers for the values of a message: JSON in one line or many, and YAML.

/// Takes a value piece by piece.
pub(super) trait Sink {
    fn begin_object(&mut self);
    /// Goes before each value of an object.
    fn key(&mut self, key: &str);
    fn end_object(&mut self);
    fn begin_list(&mut self);
    /// Goes before each value of a list.
    fn item(&mut self);
    fn end_list(&mut self);
    fn string(&mut self, text: &str);
    /// A number, a boolean or null.
    fn raw(&mut self, text: &str);
}

/// JSON.
pub(super) struct Json {
    out: String,
    pretty: bool,
    depth: usize,
    empty: bool,
}

impl Json {
    pub(super) fn new(pretty: bool) -> Self {
        Self {
            out: String::new(),
            pretty,
            depth: 0,
            empty: true,
        }
    }

    pub(super) fn finish(mut self) -> String {
        if self.pretty {
            self.out.push('\n');
        }
        self.out
    }

    fn begin(&mut self, bracket: char) {
        self.out.push(bracket);
        self.depth += 1;
        self.empty = true;
    }

    fn end(&mut self, bracket: char) {
        self.depth -= 1;
        if !self.empty {
            self.new_line();
        }
        self.out.push(bracket);
        self.empty = false;
    }

    fn next(&mut self) {
        if !self.empty {
            self.out.push(',');
        }
        self.new_line();
        self.empty = false;
    }

    fn new_line(&mut self) {
        if self.pretty {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', self.depth));
        }
    }
}

impl Sink for Json {
    fn begin_object(&mut self) {
        self.begin('{');
    }

    fn key(&mut self, key: &str) {
        self.next();
        quote(key, &mut self.out);
        self.out.push_str(if self.pretty { ": " } else { ":" });
    }

    fn end_object(&mut self) {
        self.end('}');
    }

    fn begin_list(&mut self) {
        self.begin('[');
    }

    fn item(&mut self) {
        self.next();
    }

    fn end_list(&mut self) {
        self.end(']');
    }

    fn string(&mut self, text: &str) {
        quote(text, &mut self.out);
    }

    fn raw(&mut self, text: &str) {
        self.out.push_str(text);
    }
}

/// YAML in block style.
#[derive(Default)]
pub(super) struct Yaml {
    out: String,
    open: Vec<Block>,
    /// What was written last and awaits its value.
    after: After,
}

struct Block {
    empty: bool,
    empty_form: &'static str,
    after: After,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum After {
    #[default]
    Start,
    Key,
    Item,
}

impl Yaml {
    pub(super) fn finish(mut self) -> String {
        self.out.push('\n');
        self.out
    }

    fn begin(&mut self, empty_form: &'static str) {
        self.open.push(Block {
            empty: true,
            empty_form,
            after: self.after,
        });
    }

    fn end(&mut self) {
        if let Some(Block {
            empty: true,
            empty_form,
            after,
        }) = self.open.pop()
        {
            self.after = after;
            self.raw(empty_form);
        }
    }

    /// The first entry of a block inside a list goes on the line of the dash.
    fn next(&mut self) {
        let indent = self.open.len().saturating_sub(1) * 2;
        let Some(block) = self.open.last_mut() else {
            return;
        };
        let follows_dash = block.empty && block.after == After::Item;
        block.empty = false;
        if follows_dash {
            self.out.push(' ');
        } else {
            if !self.out.is_empty() {
                self.out.push('\n');
            }
            self.out.extend(std::iter::repeat_n(' ', indent));
        }
    }
}

impl Sink for Yaml {
    fn begin_object(&mut self) {
        self.begin("{}");
    }

    fn key(&mut self, key: &str) {
        self.next();
        let plain = key
            .bytes()
            .all(|byte| byte.is_ascii_alphabetic() || byte == b'_')
            && key.len() > 3
            && !matches!(key, "true" | "false" | "null");
        if plain {
            self.out.push_str(key)
        } else {
            quote(key, &mut self.out)
        }
        self.out.push(':');
        self.after = After::Key;
    }

    fn end_object(&mut self) {
        self.end();
    }

    fn begin_list(&mut self) {
        self.begin("[]");
    }

    fn item(&mut self) {
        self.next();
        self.out.push('-');
        self.after = After::Item;
    }

    fn end_list(&mut self) {
        self.end();
    }

    fn string(&mut self, text: &str) {
        if self.after != After::Start {
            self.out.push(' ');
        }
        quote(text, &mut self.out);
    }

    fn raw(&mut self, text: &str) {
        if self.after != After::Start {
            self.out.push(' ');
        }
        self.out.push_str(text);
    }
}

/// Takes values to find out whether they can be printed.
pub(super) struct Nothing;

impl Sink for Nothing {
    fn begin_object(&mut self) {}
    fn key(&mut self, _: &str) {}
    fn end_object(&mut self) {}
    fn begin_list(&mut self) {}
    fn item(&mut self) {}
    fn end_list(&mut self) {}
    fn string(&mut self, _: &str) {}
    fn raw(&mut self, _: &str) {}
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            _ => out.push(character),
        }
    }
    out.push('"');
}
