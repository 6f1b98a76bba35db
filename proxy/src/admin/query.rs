//! Parameters of a request: from its query, and from the body of a form.

/// Names and values, decoded, in order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Query {
    parameters: Vec<(String, String)>,
}

impl Query {
    /// Takes the parameters of a target such as `/stats?usedonly&filter=a`.
    pub(super) fn of_target(target: &str) -> Self {
        let mut query = Self::default();
        if let Some((_, parameters)) = target.split_once('?') {
            query.add(parameters.as_bytes());
        }
        query
    }

    /// Adds parameters in the form `a=1&b=2`.
    pub(super) fn add(&mut self, parameters: &[u8]) {
        for parameter in parameters.split(|b| *b == b'&').filter(|p| !p.is_empty()) {
            let at = parameter.iter().position(|b| *b == b'=');
            let (name, value) = match at {
                Some(at) => (&parameter[..at], &parameter[at + 1..]),
                None => (parameter, &[][..]),
            };
            self.parameters.push((decode(name), decode(value)));
        }
    }

    /// The first value of a parameter that is there and not empty.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.first(name).filter(|value| !value.is_empty())
    }

    /// Whether a parameter is there, with or without a value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.first(name).is_some()
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.parameters
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
    }

    fn first(&self, name: &str) -> Option<&str> {
        self.iter()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| value)
    }
}

/// Undoes percent encoding; a plus is a space. What is no encoding stands for itself.
fn decode(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, others @ ..] = rest {
        rest = others;
        match (first, others) {
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    out.push(high << 4 | low);
                    rest = after;
                }
                _ => out.push(b'%'),
            },
            (b'+', _) => out.push(b' '),
            _ => out.push(*first),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_may_lack_a_value() {
        let query = Query::of_target("/stats?usedonly&filter=a%2Eb%zz%4&x=1+2&filter=c&e=");
        assert!(query.has("usedonly") && query.has("e") && !query.has("y"));
        assert_eq!(query.value("filter"), Some("a.b%zz%4"));
        assert_eq!(query.value("x"), Some("1 2"));
        assert_eq!(query.value("e"), None);
        assert_eq!(Query::of_target("/stats").iter().len(), 0);
    }
}
