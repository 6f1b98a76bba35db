//! A route table, and requests: the route that the table finds by its indexes is the one that a naive reading of the
//! configuration finds by trying everything in order.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use outrigger::config::{ConfigPath, ConfigReport};
use outrigger::http::{Protocol, RequestHead};
use outrigger::route::{RouteTable, Selection};
use outrigger::server::{FactoryContext, InitManager, LocalInfo, ServerContext};
use outrigger::stream_info::StreamInfo;
use outrigger_fuzz::connection;
use outrigger_proto::pb::envoy::config::route::v3 as pb;
use outrigger_proto::pb::envoy::r#type::matcher::v3 as matcher;
use outrigger_proto::pb::envoy::r#type::v3::Int64Range;
use outrigger_proto::pb::google::protobuf::BoolValue;
use pb::header_matcher::HeaderMatchSpecifier;
use pb::query_parameter_matcher::QueryParameterMatchSpecifier;
use pb::route_match::PathSpecifier;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Bytes(bytes);
    let Some(model) = Table::read(&mut bytes) else {
        return;
    };
    let table = model.convert();
    let info = StreamInfo::new(connection().into(), 1, Some(Protocol::Http11));
    for _ in 0..8 {
        let Some(request) = Request::read(&mut bytes) else {
            return;
        };
        let found = match table.select(&request.head(), &info, 0) {
            Selection::Route(index) => Some((index.virtual_host, index.route)),
            Selection::RequireTls => panic!("nobody requires it"),
            Selection::None => None,
        };
        let expected = model.find(&request).map(|(h, r)| (h as u32, r as u32));
        assert_eq!(found, expected, "{request:#?} in {model:#?}");
    }
});

/// What the fuzzer gives, piece by piece.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn below(&mut self, n: u8) -> Option<u8> {
        Some(self.next()? % n)
    }

    fn flag(&mut self) -> Option<bool> {
        Some(self.next()? & 1 == 1)
    }

    /// A text of few letters, so that many are parts of others.
    fn text(&mut self, letters: &[u8], most: u8) -> Option<String> {
        let len = self.below(most + 1)?;
        let letter = |_| Some(char::from(letters[usize::from(self.next()?) % letters.len()]));
        (0..len).map(letter).collect()
    }

    fn list<T>(&mut self, most: u8, mut one: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let len = self.below(most + 1)?;
        (0..len).map(|_| one(self)).collect()
    }
}

#[derive(Debug)]
struct Table {
    ignore_port: bool,
    ignore_parameters: bool,
    hosts: Vec<Host>,
}

#[derive(Debug)]
struct Host {
    domains: Vec<String>,
    routes: Vec<Route>,
}

#[derive(Debug)]
struct Route {
    path: Path,
    case_sensitive: bool,
    headers: Vec<Header>,
    queries: Vec<Query>,
}

#[derive(Debug)]
enum Path {
    Prefix(String),
    Exact(String),
    Separated(String),
    /// `/[ab]+.*`
    LettersFirst,
    /// `.*b`
    EndsInB,
    /// `/a(/b)?`
    AWithOrWithoutB,
    Connect,
}

#[derive(Debug)]
struct Header {
    name: &'static str,
    invert: bool,
    missing_is_empty: bool,
    condition: Condition,
}

#[derive(Debug)]
struct Query {
    name: &'static str,
    condition: Condition,
}

#[derive(Debug)]
enum Condition {
    Present(bool),
    Exact(String, bool),
    Prefix(String, bool),
    Suffix(String, bool),
    Contains(String, bool),
    Range(i64, i64),
}

#[derive(Debug)]
struct Request {
    connect: bool,
    authority: String,
    path: String,
    headers: Vec<(&'static str, String)>,
}

const NAMES: [&str; 3] = ["x", "y", "accept"];

impl Table {
    fn read(bytes: &mut Bytes<'_>) -> Option<Self> {
        let bits = bytes.next()?;
        let mut known: Vec<String> = Vec::new();
        Some(Self {
            ignore_port: bits & 1 == 1,
            ignore_parameters: bits & 2 == 2,
            hosts: bytes.list(6, |bytes| {
                let mut domains = bytes.list(4, Host::domain)?;
                // A domain stands once in a table.
                domains.retain(|domain| {
                    let lower = domain.to_ascii_lowercase();
                    let new = !known.contains(&lower);
                    known.push(lower);
                    new
                });
                let routes = bytes.list(12, Route::read)?;
                Some(Host { domains, routes })
            })?,
        })
    }

    fn convert(&self) -> RouteTable {
        let hosts = self.hosts.iter().enumerate().map(|(number, host)| pb::VirtualHost {
            name: format!("{number}"),
            // One that nobody asks for, since there has to be one.
            domains: host.domains.iter().cloned().chain([format!("only.{number}")]).collect(),
            routes: host.routes.iter().map(Route::convert).collect(),
            ..Default::default()
        });
        let proto = pb::RouteConfiguration {
            virtual_hosts: hosts.collect(),
            ignore_port_in_host_matching: self.ignore_port,
            ignore_path_parameters_in_path_matching: self.ignore_parameters,
            ..Default::default()
        };
        let server = Arc::new(ServerContext::new(0, LocalInfo::default()));
        let cx = FactoryContext {
            server: &server,
            scope: &server.stats.scope(""),
            init: &InitManager::new("fuzz"),
        };
        let report = ConfigReport::new();
        let table = RouteTable::from_proto(proto, &cx, &ConfigPath::root(&report, "routes"));
        table.unwrap_or_else(|_| panic!("{:?}", report.take()))
    }

    /// Tries everything: domains by how well they fit, then routes in order.
    fn find(&self, request: &Request) -> Option<(usize, usize)> {
        let mut host = request.authority.to_ascii_lowercase();
        if self.ignore_port && let Some((name, port)) = host.rsplit_once(':') && !port.contains(']') {
            host = name.to_owned();
        }
        let all = self.hosts.iter().enumerate();
        let fits = all.flat_map(|(number, of)| of.domains.iter().map(move |domain| (number, domain)));
        let fits = fits.filter_map(|(number, domain)| Some((fitness(&domain.to_ascii_lowercase(), &host)?, number)));
        let (_, number) = fits.max()?;
        let path = request.path.split('?').next()?;
        let path = match self.ignore_parameters {
            true => path.split(';').next()?,
            false => path,
        };
        let routes = &self.hosts[number].routes;
        let route = routes.iter().position(|route| route.fits(request, path))?;
        Some((number, route))
    }
}

/// How well a domain fits: exactly, by its end, by its beginning, or as any would; the longer the better.
fn fitness(domain: &str, host: &str) -> Option<(u8, usize)> {
    if domain == "*" {
        return Some((0, 0));
    }
    if let Some(end) = domain.strip_prefix('*') {
        return (host.len() > end.len() && host.ends_with(end)).then_some((2, end.len()));
    }
    if let Some(start) = domain.strip_suffix('*') {
        return (host.len() > start.len() && host.starts_with(start)).then_some((1, start.len()));
    }
    (domain == host).then_some((3, 0))
}

impl Host {
    fn domain(bytes: &mut Bytes<'_>) -> Option<String> {
        let kind = bytes.below(4)?;
        let text = bytes.text(b"abA.-:", 5)?;
        Some(match kind {
            0 => "*".to_owned(),
            1 => format!("*{text}."),
            2 => format!("a{text}*"),
            _ => format!("a{text}"),
        })
    }
}

impl Route {
    fn read(bytes: &mut Bytes<'_>) -> Option<Self> {
        let path = match bytes.below(9)? {
            0 | 1 => Path::Prefix(format!("/{}", bytes.text(b"abAB/.", 5)?)),
            2 => Path::Prefix(String::new()),
            3 | 4 => Path::Exact(format!("/{}", bytes.text(b"abAB/.", 5)?)),
            5 => Path::Separated(format!("/{}b", bytes.text(b"abAB/.", 4)?)),
            6 => match bytes.below(3)? {
                0 => Path::LettersFirst,
                1 => Path::EndsInB,
                _ => Path::AWithOrWithoutB,
            },
            7 => Path::Connect,
            _ => Path::Prefix("/".into()),
        };
        Some(Self {
            path,
            case_sensitive: bytes.flag()?,
            headers: bytes.list(2, |bytes| {
                let bits = bytes.next()?;
                Some(Header {
                    name: NAMES[usize::from(bytes.below(3)?)],
                    invert: bits & 1 == 1,
                    missing_is_empty: bits & 2 == 2,
                    condition: Condition::read(bytes, 6)?,
                })
            })?,
            queries: bytes.list(1, |bytes| {
                Some(Query {
                    name: ["a", "b", "aa"][usize::from(bytes.below(3)?)],
                    condition: Condition::read(bytes, 5)?,
                })
            })?,
        })
    }

    fn convert(&self) -> pb::Route {
        let regex = |regex: &str| {
            PathSpecifier::SafeRegex(matcher::RegexMatcher {
                regex: regex.into(),
                ..Default::default()
            })
        };
        let path = match &self.path {
            Path::Prefix(text) => PathSpecifier::Prefix(text.clone()),
            Path::Exact(text) => PathSpecifier::Path(text.clone()),
            Path::Separated(text) => PathSpecifier::PathSeparatedPrefix(text.clone()),
            Path::LettersFirst => regex("/[ab]+.*"),
            Path::EndsInB => regex(".*b"),
            Path::AWithOrWithoutB => regex("/a(/b)?"),
            Path::Connect => PathSpecifier::ConnectMatcher(pb::route_match::ConnectMatcher {}),
        };
        pb::Route {
            r#match: Some(pb::RouteMatch {
                path_specifier: Some(path),
                case_sensitive: Some(BoolValue { value: self.case_sensitive }),
                headers: self.headers.iter().map(Header::convert).collect(),
                query_parameters: self.queries.iter().map(Query::convert).collect(),
                ..Default::default()
            }),
            action: Some(pb::route::Action::NonForwardingAction(pb::NonForwardingAction {})),
            ..Default::default()
        }
    }

    fn fits(&self, request: &Request, path: &str) -> bool {
        self.path.fits(path, self.case_sensitive, request.connect)
            && self.headers.iter().all(|header| header.fits(request))
            && self.queries.iter().all(|query| query.fits(request))
    }
}

impl Path {
    fn fits(&self, path: &str, case_sensitive: bool, connect: bool) -> bool {
        let fold = |text: &str| match case_sensitive {
            true => text.to_owned(),
            false => text.to_ascii_lowercase(),
        };
        match self {
            Self::Prefix(text) => fold(path).starts_with(&fold(text)),
            Self::Exact(text) => fold(path) == fold(text),
            Self::Separated(text) => {
                let (path, text) = (fold(path), fold(text));
                path == text || path.starts_with(&format!("{text}/"))
            }
            Self::LettersFirst => path.starts_with("/a") || path.starts_with("/b"),
            Self::EndsInB => path.ends_with('b'),
            Self::AWithOrWithoutB => path == "/a" || path == "/a/b",
            Self::Connect => connect,
        }
    }
}

impl Condition {
    fn read(bytes: &mut Bytes<'_>, kinds: u8) -> Option<Self> {
        let kind = bytes.below(kinds)?;
        let fold = bytes.flag()?;
        let text = format!("{}1", bytes.text(b"abA1-", 2)?);
        Some(match kind {
            0 => Self::Present(fold),
            1 => Self::Exact(text, fold),
            2 => Self::Prefix(text, fold),
            3 => Self::Suffix(text, fold),
            4 => Self::Contains(text, fold),
            _ => Self::Range(i64::from(bytes.below(12)?) - 6, i64::from(bytes.below(12)?)),
        })
    }

    fn text(&self) -> matcher::StringMatcher {
        use matcher::string_matcher::MatchPattern;
        let (pattern, ignore_case) = match self {
            Self::Exact(text, fold) => (MatchPattern::Exact(text.clone()), fold),
            Self::Prefix(text, fold) => (MatchPattern::Prefix(text.clone()), fold),
            Self::Suffix(text, fold) => (MatchPattern::Suffix(text.clone()), fold),
            Self::Contains(text, fold) => (MatchPattern::Contains(text.clone()), fold),
            Self::Present(_) | Self::Range(..) => unreachable!("these are no texts"),
        };
        matcher::StringMatcher {
            ignore_case: *ignore_case,
            match_pattern: Some(pattern),
        }
    }

    fn holds(&self, value: &str) -> bool {
        let with = |text: &String, fold: &bool, holds: fn(&str, &str) -> bool| match fold {
            true => holds(&value.to_ascii_lowercase(), &text.to_ascii_lowercase()),
            false => holds(value, text),
        };
        match self {
            Self::Present(present) => *present,
            Self::Exact(text, fold) => with(text, fold, |value, text| value == text),
            Self::Prefix(text, fold) => with(text, fold, |value, text| value.starts_with(text)),
            Self::Suffix(text, fold) => with(text, fold, |value, text| value.ends_with(text)),
            Self::Contains(text, fold) => with(text, fold, |value, text| value.contains(text)),
            Self::Range(from, to) => value.parse().is_ok_and(|n: i64| (*from..*to).contains(&n)),
        }
    }
}

impl Header {
    fn convert(&self) -> pb::HeaderMatcher {
        pb::HeaderMatcher {
            name: self.name.into(),
            invert_match: self.invert,
            treat_missing_header_as_empty: self.missing_is_empty,
            header_match_specifier: Some(match &self.condition {
                Condition::Present(present) => HeaderMatchSpecifier::PresentMatch(*present),
                Condition::Range(start, end) => HeaderMatchSpecifier::RangeMatch(Int64Range { start: *start, end: *end }),
                text => HeaderMatchSpecifier::StringMatch(text.text()),
            }),
        }
    }

    /// Each value of a header counts on its own. One that is missing meets nothing, inverted or not, unless it counts as empty.
    fn fits(&self, request: &Request) -> bool {
        let values: Vec<_> = request.headers.iter().filter(|(name, _)| *name == self.name).collect();
        let there = !values.is_empty();
        match &self.condition {
            Condition::Present(present) => ((there || self.missing_is_empty) == *present) != self.invert,
            _ if !there && !self.missing_is_empty => false,
            condition if !there => condition.holds("") != self.invert,
            condition => values.iter().any(|(_, value)| condition.holds(value)) != self.invert,
        }
    }
}

impl Query {
    fn convert(&self) -> pb::QueryParameterMatcher {
        pb::QueryParameterMatcher {
            name: self.name.into(),
            query_parameter_match_specifier: Some(match &self.condition {
                Condition::Present(present) => QueryParameterMatchSpecifier::PresentMatch(*present),
                text => QueryParameterMatchSpecifier::StringMatch(text.text()),
            }),
        }
    }

    fn fits(&self, request: &Request) -> bool {
        let query = request.path.split_once('?').map(|(_, query)| query);
        let mut parameters = query.into_iter().flat_map(|query| query.split('&'));
        let value = parameters.find_map(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            (name == self.name).then_some(value)
        });
        match (&self.condition, value) {
            (Condition::Present(present), value) => value.is_some() == *present,
            (condition, value) => value.is_some_and(|value| condition.holds(value)),
        }
    }
}

impl Request {
    fn read(bytes: &mut Bytes<'_>) -> Option<Self> {
        let bits = bytes.next()?;
        Some(Self {
            connect: bits & 7 == 7,
            authority: format!("a{}", bytes.text(b"abA.-:]", 8)?),
            path: match bits & 8 == 8 {
                false => format!("/{}", bytes.text(b"abAB/.;", 7)?),
                true => format!("/{}?{}", bytes.text(b"abAB/.;", 5)?, bytes.text(b"abA1=&", 8)?),
            },
            headers: bytes.list(3, |bytes| {
                Some((NAMES[usize::from(bytes.below(3)?)], bytes.text(b"abA1-", 3)?))
            })?,
        })
    }

    fn head(&self) -> RequestHead {
        let method: &[u8] = if self.connect { b"CONNECT" } else { b"GET" };
        let mut head = RequestHead::new(Protocol::Http11, method);
        head.set_authority(self.authority.as_bytes());
        head.set_path(self.path.as_bytes());
        head.set_scheme(b"http");
        head.fields.append("x-forwarded-proto", "http");
        for (name, value) in &self.headers {
            head.fields.append(*name, value.as_bytes());
        }
        head
    }
}
