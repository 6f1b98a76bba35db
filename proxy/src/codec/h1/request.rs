//! The head of a request: `httparse` where it serves, and Envoy's leniency and strictness where they differ.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::lines::{
    HeadSearch, check_characters, fields, first_line_parts, is_authority_byte, is_token,
};
use super::message::{
    Framing, has_token, is_persistent, is_upgrade, parse_length, parse_version, place_in,
    remove_connection_tokens, remove_h2c, remove_upgrades, tokens,
};
use super::reject::Reject;
use super::settings::Http1Settings;
use super::target::{absolute, is_acceptable, is_known_method, may_begin_method};
use crate::http::inline::merges_in_request;
use crate::http::{
    Fields, HeadersWithUnderscoresAction, Known, Method, OriginalNames, Protocol, RequestHead,
};

/// A request head that was read, and what follows from it.
#[derive(Debug)]
pub struct Request {
    /// The head; fields that `connection` names are gone.
    pub head: RequestHead,
    /// What follows the head.
    pub framing: Framing,
    /// Whether the client allows another request on the connection.
    pub persistent: bool,
    /// Bytes of the fields as Envoy counts them.
    pub header_bytes: u64,
    /// Fields that were left out for the underscore in their name.
    pub dropped_underscores: u32,
}

/// The first line of a request.
struct RequestLine<'a> {
    method: &'a [u8],
    target: &'a [u8],
    http11: bool,
}

/// Reads a request head from the start of `bytes`; gives it with its length, or nothing while more bytes are needed.
/// `search` belongs to this head: fresh before the first call, then passed again with the same bytes and more of them.
pub(crate) fn parse(
    bytes: &[u8],
    search: &mut HeadSearch,
    settings: &Http1Settings,
) -> Result<Option<(Request, usize)>, Reject> {
    let max_bytes = settings.max_request_headers_kb as usize * 1024;
    if search.is_fresh()
        && let Some((message, length)) = parse_strict(bytes, settings)
        && length <= max_bytes
    {
        return finish(message?, settings).map(|request| Some((request, length)));
    }
    parse_lenient(bytes, search, settings)
}

/// The same without the fast path.
pub(crate) fn parse_lenient(
    bytes: &[u8],
    search: &mut HeadSearch,
    settings: &Http1Settings,
) -> Result<Option<(Request, usize)>, Reject> {
    let Some(first) = bytes.first() else {
        return Ok(None);
    };
    if *first <= b' ' {
        return Err(Reject::CodecError);
    }
    let max_bytes = settings.max_request_headers_kb as usize * 1024;
    let visible = bytes.get(..max_bytes).unwrap_or(bytes);
    let end = search.find_end(visible);
    let first_line = search.first_line();
    let line = bytes.get(..first_line.unwrap_or(0)).unwrap_or_default();
    // A line without version is HTTP/0.9: the head is this line.
    let http09 = first_line.is_some() && first_line_parts(line).2.is_empty();
    let head = match end {
        _ if http09 => line,
        Some(end) => bytes.get(..end).unwrap_or_default(),
        None => &[],
    };
    // What is wrong with the first line is known before the rest is there. Where the rest is there, its characters count
    // more: Envoy's parser goes on to the end of what it was given.
    let refuse = |reject| check_characters(head).err().unwrap_or(reject);
    if !may_begin_method(*first, settings.options.allow_custom_methods) {
        return Err(refuse(Reject::CodecError));
    }
    let Some(first_line) = first_line else {
        return still_partial(visible.len(), max_bytes);
    };
    let line = parse_first_line(line, settings).map_err(refuse)?;
    if http09 {
        check_characters(head)?;
        return finish(Builder::new(&line, settings), settings)
            .map(|request| Some((request, first_line)));
    }
    let Some(end) = end else {
        return still_partial(visible.len(), max_bytes);
    };
    check_characters(head)?;
    let mut builder = Builder::new(&line, settings);
    let lines = bytes.get(first_line..end).unwrap_or_default();
    // Names, and the framing that the parser itself looks at, are judged before the first field counts.
    let mut lengths = 0;
    let mut encoded = false;
    let mut bad_length = false;
    fields(lines, |name, value| {
        if name.eq_ignore_ascii_case(b"content-length") {
            lengths += 1;
            bad_length |= parse_length(value).is_none();
        }
        encoded |= name.eq_ignore_ascii_case(b"transfer-encoding");
        Ok(())
    })?;
    if lengths > 1 || (bad_length && !encoded) {
        return Err(Reject::CodecError);
    }
    fields(lines, |name, value| builder.add(name, value))?;
    finish(builder, settings).map(|request| Some((request, end)))
}

fn still_partial<T>(length: usize, max_bytes: usize) -> Result<Option<T>, Reject> {
    if length >= max_bytes {
        Err(Reject::HeadersTooLarge)
    } else {
        Ok(None)
    }
}

fn parse_first_line<'a>(
    line: &'a [u8],
    settings: &Http1Settings,
) -> Result<RequestLine<'a>, Reject> {
    let (method, target, version) = first_line_parts(line);
    let known = if settings.options.allow_custom_methods {
        !method.is_empty() && method.iter().all(|b| is_token(*b))
    } else {
        is_known_method(method)
    };
    if !known || target.is_empty() || !is_acceptable(target, method == b"CONNECT") {
        return Err(Reject::CodecError);
    }
    let http11 = if version.is_empty() {
        // Envoy looks at the end of the line only, so that `GET /xHTTP/1.1` passes for 1.1.
        target.ends_with(b"HTTP/1.1")
    } else {
        parse_version(version).ok_or(Reject::CodecError)?
    };
    Ok(RequestLine {
        method,
        target,
        http11,
    })
}

/// A head that is whole and plain. None: let the other parser decide.
fn parse_strict<'a>(
    bytes: &'a [u8],
    settings: &'a Http1Settings,
) -> Option<(Result<Builder<'a>, Reject>, usize)> {
    let mut headers = [const { MaybeUninit::uninit() }; 128];
    let mut request = httparse::Request::new(&mut []);
    let httparse::Status::Complete(length) = request
        .parse_with_uninit_headers(bytes, &mut headers)
        .ok()?
    else {
        return None;
    };
    let method = request.method?.as_bytes();
    let target = request.path?.as_bytes();
    if request.version != Some(1)
        || target.first() != Some(&b'/')
        || !target.is_ascii()
        || !(settings.options.allow_custom_methods || is_known_method(method))
        || matches!(bytes.first(), Some(b'\r' | b'\n'))
    {
        return None;
    }
    let mut builder = Builder::new(
        &RequestLine {
            method,
            target,
            http11: true,
        },
        settings,
    );
    let base = builder.head.fields.load(bytes.get(..length)?);
    for header in request.headers.iter() {
        let name = header.name.as_bytes();
        let places = (
            place_in(bytes, base, name),
            place_in(bytes, base, header.value),
        );
        if let Err(reject) = builder.add_loaded(name, header.value, places) {
            return Some((Err(reject), length));
        }
    }
    // A repeated or odd length is decided where all of a head is known.
    if let Some(value) = builder.head.fields.get(Known::ContentLength) {
        let is_length = |h: &&httparse::Header<'_>| h.name.eq_ignore_ascii_case("content-length");
        if parse_length(value).is_none()
            || request.headers.iter().filter(is_length).nth(1).is_some()
        {
            return None;
        }
    }
    Some((Ok(builder), length))
}

/// A request head while its fields come in.
struct Builder<'a> {
    head: RequestHead,
    target: &'a [u8],
    http11: bool,
    header_bytes: u64,
    dropped_underscores: u32,
    max_count: usize,
    underscores: HeadersWithUnderscoresAction,
    original: Option<OriginalNames>,
}

impl<'a> Builder<'a> {
    fn new(line: &RequestLine<'a>, settings: &Http1Settings) -> Self {
        let version = if line.http11 {
            Protocol::Http11
        } else {
            Protocol::Http10
        };
        Self {
            head: RequestHead::new(version, line.method),
            target: line.target,
            http11: line.http11,
            header_bytes: 0,
            dropped_underscores: 0,
            max_count: settings.max_headers_count as usize,
            underscores: settings.headers_with_underscores_action,
            original: settings.options.header_key_format.original_names(),
        }
    }

    fn add(&mut self, name: &[u8], value: &[u8]) -> Result<(), Reject> {
        self.add_with(name, value, |fields| {
            fields.append_wire_merging(name, value, merges_in_request);
        })
    }

    /// As `add`, for a field whose head was loaded: `places` are those of name and value.
    #[inline]
    fn add_loaded(
        &mut self,
        name: &[u8],
        value: &[u8],
        places: (Range<usize>, Range<usize>),
    ) -> Result<(), Reject> {
        self.add_with(name, value, |fields| {
            fields.append_loaded(places.0, places.1, merges_in_request);
        })
    }

    #[inline]
    fn add_with(
        &mut self,
        name: &[u8],
        value: &[u8],
        append: impl FnOnce(&mut Fields),
    ) -> Result<(), Reject> {
        self.header_bytes += name.len() as u64 + value.len() as u64 + 3;
        if self.underscores != HeadersWithUnderscoresAction::Allow && name.contains(&b'_') {
            return match self.underscores {
                HeadersWithUnderscoresAction::RejectRequest => Err(Reject::UnexpectedUnderscore),
                _ => {
                    self.dropped_underscores += 1;
                    Ok(())
                }
            };
        }
        if let Some(original) = &mut self.original {
            original.remember(name);
        }
        if name.len() == 4 && name.eq_ignore_ascii_case(b"host") {
            self.add_host(value);
        } else {
            append(&mut self.head.fields);
        }
        let count = self.head.fields.len() + usize::from(self.head.authority().is_some());
        if count > self.max_count {
            return Err(Reject::TooManyHeaders);
        }
        Ok(())
    }

    fn add_host(&mut self, value: &[u8]) {
        match self.head.authority() {
            None | Some(b"") => self.head.set_authority(value),
            Some(_) if value.is_empty() => {}
            Some(first) => {
                let joined = [first, value].join(&b","[..]);
                self.head.set_authority(&joined);
            }
        }
    }
}

/// Judges a whole head, in Envoy's order.
fn finish(builder: Builder<'_>, settings: &Http1Settings) -> Result<Request, Reject> {
    let Builder {
        mut head,
        target,
        http11,
        header_bytes,
        dropped_underscores,
        original,
        ..
    } = builder;
    if let Some(original) = original {
        head.fields.set_original_names(original);
    }
    let connect = head.method() == Method::Connect;
    let mut raw = false;
    let ignored = &settings.options.ignore_http_11_upgrade;
    if !ignored.is_empty() && head.fields.contains(Known::Upgrade) {
        remove_upgrades(&mut head.fields, |protocol| ignored.contains(protocol));
    }
    if head.fields.contains(Known::Upgrade) && is_upgrade(&head.fields) {
        if head
            .fields
            .get(Known::Upgrade)
            .is_some_and(|value| value.eq_ignore_ascii_case(b"h2c"))
        {
            remove_h2c(&mut head.fields);
        } else {
            raw = true;
        }
    }
    if connect {
        match head.fields.get(Known::ContentLength) {
            None => {}
            Some(b"0") => {
                head.fields.remove(Known::ContentLength);
            }
            Some(_) => return Err(Reject::BodyDisallowed),
        }
        raw = true;
    }
    let body = body_framing(&mut head, connect, settings)?;
    let persistent = is_persistent(!http11, &head.fields);
    if !raw && head.fields.contains(Known::Connection) {
        sanitize_connection(&mut head)?;
    }
    set_target(&mut head, target, connect, settings)?;
    if !http11 {
        if !settings.options.accept_http_10 {
            return Err(Reject::LowVersion);
        }
        if head.authority().is_none()
            && let Some(host) = &settings.options.default_host_for_http_10
        {
            head.set_authority(host.as_bytes());
        }
    }
    if head
        .authority()
        .is_some_and(|host| !host.iter().all(|b| is_authority_byte(*b)))
    {
        return Err(Reject::InvalidAuthority);
    }
    Ok(Request {
        head,
        framing: if raw { Framing::Raw } else { body },
        persistent,
        header_bytes,
        dropped_underscores,
    })
}

fn body_framing(
    head: &mut RequestHead,
    connect: bool,
    settings: &Http1Settings,
) -> Result<Framing, Reject> {
    let encoding = head.fields.get(Known::TransferEncoding);
    let chunked = encoding.is_some_and(|value| value.eq_ignore_ascii_case(b"chunked"));
    if encoding.is_none() {
        return Ok(match head.fields.get(Known::ContentLength) {
            None => Framing::None,
            Some(value) => match parse_length(value).ok_or(Reject::CodecError)? {
                0 => Framing::None,
                length => Framing::Length(length),
            },
        });
    }
    if head.fields.contains(Known::ContentLength) {
        if !(chunked && settings.options.allow_chunked_length) {
            return Err(Reject::ContentLengthAndChunked);
        }
        head.fields.remove(Known::ContentLength);
    }
    if !chunked || connect {
        return Err(Reject::InvalidTransferEncoding);
    }
    Ok(Framing::Chunked)
}

/// Removes what `connection` names, unless it names what must stay.
fn sanitize_connection(head: &mut RequestHead) -> Result<(), Reject> {
    let Some(value) = head.fields.get(Known::Connection) else {
        return Ok(());
    };
    if tokens(value).all(|token| {
        matches!(
            token,
            b"close" | b"keep-alive" | b"Keep-Alive" | b"Close" | b"Upgrade" | b"upgrade"
        )
    }) && !head.fields.contains(Known::KeepAlive)
        && tokens(value).count() < 10
    {
        return Ok(());
    }
    let names: Vec<Vec<u8>> = tokens(value).map(<[u8]>::to_ascii_lowercase).collect();
    if names.len() >= 10 {
        return Err(Reject::ConnectionHeaderRejected);
    }
    let mut removed: Vec<&[u8]> = Vec::new();
    for name in &names {
        match name.as_slice() {
            b"connection" => removed.push(name),
            b"x-forwarded-for" | b"x-forwarded-host" | b"x-forwarded-proto" => {
                return Err(Reject::ConnectionHeaderRejected);
            }
            [b':', ..] => return Err(Reject::ConnectionHeaderRejected),
            b"host" => {
                head.remove_authority();
                removed.push(name);
            }
            b"te" if head.fields.contains(Known::Te) => {
                let te = head.fields.get(Known::Te);
                if te.is_some_and(|value| value.len() >= 256) {
                    return Err(Reject::ConnectionHeaderRejected);
                }
                if has_token(te, b"trailers") {
                    head.fields.set(Known::Te, "trailers");
                } else {
                    head.fields.remove(Known::Te);
                    removed.push(name);
                }
            }
            other => {
                if head.fields.remove(other) > 0 {
                    removed.push(name);
                }
            }
        }
    }
    if !removed.is_empty() {
        remove_connection_tokens(&mut head.fields, |token| {
            removed.iter().any(|name| token.eq_ignore_ascii_case(name))
        });
    }
    Ok(())
}

fn set_target(
    head: &mut RequestHead,
    target: &[u8],
    connect: bool,
    settings: &Http1Settings,
) -> Result<(), Reject> {
    let is_path = match target.first() {
        Some(b'/') => true,
        Some(b'*') => head.method() == Method::Options,
        _ => false,
    };
    if !connect && (is_path || !settings.options.allow_absolute_url) {
        head.set_path(target);
        return Ok(());
    }
    let url = absolute(target, connect)?;
    head.set_authority(url.authority);
    if connect {
        return Ok(());
    }
    if url.scheme.eq_ignore_ascii_case(b"http") {
        head.set_scheme(b"http");
    } else if url.scheme.eq_ignore_ascii_case(b"https") {
        head.set_scheme(b"https");
    } else {
        return Err(Reject::InvalidScheme);
    }
    head.set_path(if url.path.is_empty() { b"/" } else { url.path });
    Ok(())
}
