//! Filters that ask for credentials or give some: `basic_auth`, `api_key_auth`, `csrf`, `credential_injector`.

use crate::case::{Case, Request, With, case, get, http1, ok, reply, request};
use outrigger_xds_tests::backend::Kind;

pub fn cases() -> Vec<Case> {
    [basic_auth(), api_key_auth(), csrf(), injector()]
        .into_iter()
        .flatten()
        .collect()
}

/// A filter with this configuration, called `f`.
fn with(title: &'static str, kind: &str, config: &str) -> Case {
    case(title).filters(&format!(
        "- name: f\n  typed_config: {{ \"@type\": \"@http/{kind}\", {config} }}"
    ))
}

/// The same with a configuration of the route.
fn routed(title: &'static str, (kind, config): (&str, &str), route: (&str, &str)) -> Case {
    with(title, kind, config).route(
        "",
        &format!(
            "typed_per_filter_config: {{ f: {{ \"@type\": \"@http/{}\", {} }} }}",
            route.0, route.1
        ),
    )
}

const BASIC: &str = "basic_auth.v3.BasicAuth";
const BASIC_ROUTE: &str = "basic_auth.v3.BasicAuthPerRoute";
/// The password of `u` is `password`.
const USERS: &str = "users: { inline_string: \"u:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\" }";
/// `u:password`.
const RIGHT: &str = "Basic dTpwYXNzd29yZA==";

fn authorized(value: &str) -> Request {
    get("/a?b=c").field("authorization", value)
}

fn basic_auth() -> Vec<Case> {
    let counted = |case: Case| {
        case.stats([
            "http.@stat.basic_auth.allowed",
            "http.@stat.basic_auth.denied",
        ])
    };
    let refused = |title, request, details: &'static str| {
        counted(with(title, BASIC, USERS))
            .send(request)
            .both()
            .shows([
                "< 401",
                "< www-authenticate: Basic realm=\"http://example.com/a?b=c\"",
                details,
                "stat http.@stat.basic_auth.denied: 1",
            ])
            .lacks(["> *"])
    };
    vec![
        counted(with(
            "a password that is right opens the door",
            BASIC,
            USERS,
        ))
        .send(authorized(RIGHT))
        .both()
        .shows(["< 200", "stat http.@stat.basic_auth.allowed: 1"]),
        with(
            "the user may be the host",
            BASIC,
            &format!("{USERS}, forward_username_header: host"),
        )
        .send(authorized(RIGHT))
        .shows(["< 200", "> host: u"])
        .lacks(["> host: example.com"]),
        with("basic credentials need no padding", BASIC, USERS)
            .send(authorized("Basic dTpwYXNzd29yZA"))
            .shows(["< 200"]),
        refused(
            "a request without credentials is challenged",
            get("/a?b=c"),
            "log details=no_credential_for_basic_auth",
        ),
        refused(
            "credentials of another scheme are challenged",
            authorized("Bearer x"),
            "log details=invalid_scheme_for_basic_auth",
        ),
        refused(
            "basic credentials that are no Base64 are refused",
            authorized("Basic !!"),
            "log details=invalid_format_for_basic_auth",
        ),
        refused(
            "basic credentials without colon are refused",
            authorized("Basic dQ=="),
            "log details=invalid_format_for_basic_auth",
        ),
        refused(
            "basic credentials with three characters of padding are refused",
            authorized("Basic dTpwYXNzd29yZA==="),
            "log details=invalid_format_for_basic_auth",
        ),
        refused(
            "a wrong password is refused",
            authorized("Basic dTp4"),
            "log details=invalid_credential_for_basic_auth",
        ),
        refused(
            "an unknown user is refused",
            authorized("Basic djpwYXNzd29yZA=="),
            "log details=invalid_credential_for_basic_auth",
        ),
        refused(
            "basic credentials that are no text are refused",
            authorized("Basic //79OgD/"),
            "log details=invalid_credential_for_basic_auth",
        ),
        refused(
            "basic credentials of fifty thousand bytes are refused",
            authorized(&format!("Basic {}", "dTpw".repeat(12_500))),
            "log details=invalid_credential_for_basic_auth",
        ),
        with(
            "a realm stands in the challenge, its quotes escaped",
            BASIC,
            &format!("realm: 'a\"b\\', {USERS}"),
        )
        .get("/")
        .shows(["< 401", "< www-authenticate: Basic realm=\"a\\\"b\\\\\""]),
        with(
            "the name of the user goes upstream in the place of what the client said",
            BASIC,
            &format!("forward_username_header: X-User, {USERS}"),
        )
        .send(authorized(RIGHT).field("x-user", "evil"))
        .shows(["> x-user: u"])
        .lacks(["> x-user: evil"]),
        counted(with(
            "a request without basic credentials may pass uncounted",
            BASIC,
            &format!("allow_missing: true, authentication_header: X-Auth, {USERS}"),
        ))
        .get("/")
        .send(get("/").field("x-auth", "Bearer x"))
        .send(get("/").field("x-auth", "Basic dTp4"))
        .shows([
            "< 200",
            "< 401",
            "stat http.@stat.basic_auth.allowed: 0",
            "stat http.@stat.basic_auth.denied: 1",
        ]),
        with(
            "the name of the user is metadata under the name of the filter",
            BASIC,
            &format!("emit_dynamic_metadata: true, {USERS}"),
        )
        .log_format("%DYNAMIC_METADATA(f:username)%", "")
        .send(authorized(RIGHT))
        .shows(["log u"]),
        counted(routed(
            "a route has users of its own under the realm of the filter",
            (BASIC, &format!("realm: all, {USERS}")),
            (BASIC_ROUTE, &USERS.replace("u:", "v:")),
        ))
        .send(authorized(RIGHT))
        .send(authorized("Basic djpwYXNzd29yZA=="))
        .shows([
            "< 401",
            "< www-authenticate: Basic realm=\"all\"",
            "< 200",
            "stat http.@stat.basic_auth.allowed: 1",
            "stat http.@stat.basic_auth.denied: 1",
        ]),
        routed(
            "a route has a realm of its own",
            (BASIC, &format!("realm: all, {USERS}")),
            (BASIC_ROUTE, &format!("realm: here, {USERS}")),
        )
        .get("/")
        .shows(["< 401", "< www-authenticate: Basic realm=\"here\""]),
    ]
}

const KEYS: &str = "api_key_auth.v3.ApiKeyAuth";
const KEYS_ROUTE: &str = "api_key_auth.v3.ApiKeyAuthPerRoute";
const CLIENTS: &str = "credentials: [{ key: k1, client: one }, { key: k2, client: two }]";
const PLACES: &str = "key_sources: [{ header: X-Key }, { query: key }, { cookie: ck }]";

fn api_key_auth() -> Vec<Case> {
    let counted = |case: Case| {
        case.stats([
            "http.@stat.api_key_auth.allowed",
            "http.@stat.api_key_auth.forbidden",
            "http.@stat.api_key_auth.unauthorized",
        ])
    };
    let all = |rest: &str| format!("{CLIENTS}, {PLACES}, {rest}");
    let found = |title, request: Request| {
        counted(with(title, KEYS, &all("forwarding: { header: X-Client }")))
            .send(request)
            .both()
            .shows([
                "< 200",
                "> x-client: one",
                "stat http.@stat.api_key_auth.allowed: 1",
            ])
    };
    let refused = |title, config: &str, request, details: &'static str| {
        counted(with(title, KEYS, config))
            .send(request)
            .shows([
                "< 401",
                "< body Client authentication failed.",
                details,
                "stat http.@stat.api_key_auth.unauthorized: 1",
            ])
            .lacks(["> *"])
    };
    let hidden = |title| with(title, KEYS, &all("forwarding: { hide_credentials: true }"));
    vec![
        with("the client may be the host", KEYS, &all("forwarding: { header: host }"))
            .send(get("/").field("x-key", "k1"))
            .shows(["< 200", "> host: one"])
            .lacks(["> host: example.com"]),
        found(
            "a key in a header names the client",
            get("/").field("x-key", "k1"),
        ),
        found(
            "a key behind the word Bearer names the client",
            get("/").field("x-key", "Bearer k1"),
        ),
        found(
            "a key in the query is read without escapes",
            get("/?a=b&key=%6b1&key=k2"),
        ),
        found(
            "a key in a cookie names the client",
            get("/").field("cookie", "a=b; ck=k1"),
        ),
        found(
            "an empty field is no key",
            get("/?key=k1").field("x-key", ""),
        ),
        refused(
            "an unknown key is refused, whatever follows",
            &all(""),
            get("/?key=k1").field("x-key", "k3"),
            "log details=unknown_api_key",
        ),
        refused(
            "a request without key is refused",
            &all(""),
            get("/"),
            "log details=missing_api_key",
        ),
        refused(
            "nobody passes a filter that knows no place for a key",
            CLIENTS,
            get("/").field("x-key", "k1"),
            "log details=missing_key_sources",
        ),
        refused(
            "nobody passes a filter that knows no key",
            PLACES,
            get("/").field("x-key", "k1"),
            "log details=missing_credentials",
        ),
        hidden("a key is hidden in every place")
            .send(
                get("/p?key=k1&b=c")
                    .field("x-key", "k1")
                    .field("cookie", "a=b;ck=k2; c=d"),
            )
            .shows(["> connection 1: GET /p?b=c HTTP/1.1", "> cookie: a=b; c=d"])
            .lacks(["> x-key*"]),
        hidden("a cookie that was a key alone is gone")
            .send(get("/").field("cookie", "ck=k1"))
            .shows(["< 200"])
            .lacks(["> cookie*"]),
        hidden("cookies without a key among them stay what they were")
            .send(
                get("/")
                    .field("x-key", "k1")
                    .field("cookie", "a=b;c=d;e"),
            )
            .shows(["< 200"]),
        hidden("a query without a key among it is sorted all the same")
            .send(get("/?b=1&a&b=0").field("x-key", "k1"))
            .shows(["> connection 1: GET /?a=&b=1&b=0 HTTP/1.1"]),
        counted(routed(
            "a route chooses among the clients",
            (KEYS, &all("")),
            (KEYS_ROUTE, "allowed_clients: [two]"),
        ))
        .send(get("/").field("x-key", "k1"))
        .send(get("/").field("x-key", "k2"))
        .shows([
            "< 403",
            "< body Client is forbidden.",
            "log details=client_not_allowed*",
            "< 200",
            "stat http.@stat.api_key_auth.forbidden: 1",
            "stat http.@stat.api_key_auth.allowed: 1",
        ]),
        counted(routed(
            "a route has keys, places and forwarding of its own",
            (KEYS, &all("forwarding: { header: X-Client }")),
            (
                KEYS_ROUTE,
                "credentials: [{ key: k9, client: nine }], key_sources: [{ header: X-Other }], forwarding: { header: X-Nine }",
            ),
        ))
        .send(get("/").field("x-key", "k1"))
        .send(get("/").field("x-other", "k9"))
        .shows(["< 401", "< 200", "> x-nine: nine"])
        .lacks(["> x-client*"]),
    ]
}

const CSRF: &str = "csrf.v3.CsrfPolicy";
const ENFORCED: &str = "filter_enabled: { default_value: { numerator: 100 } }";
const OFF: &str = "filter_enabled: { default_value: { numerator: 0 } }";

fn csrf() -> Vec<Case> {
    let counted = |case: Case| {
        case.stats([
            "http.@stat.csrf.missing_source_origin",
            "http.@stat.csrf.request_invalid",
            "http.@stat.csrf.request_valid",
        ])
    };
    let post = |name, value| request("POST", "/").field(name, value);
    let passes = |title, request| {
        counted(with(title, CSRF, ENFORCED))
            .send(request)
            .shows(["< 200", "stat http.@stat.csrf.request_valid: 1"])
    };
    let refused = |title, request, stat: &'static str| {
        counted(with(title, CSRF, ENFORCED))
            .send(request)
            .both()
            .shows([
                "< 403",
                "< body Invalid origin",
                "log details=csrf_origin_mismatch",
                stat,
            ])
            .lacks(["> *"])
    };
    let missing = "stat http.@stat.csrf.missing_source_origin: 1";
    let invalid = "stat http.@stat.csrf.request_invalid: 1";
    vec![
        passes("a page of the own origin may post", post("origin", "https://example.com")),
        passes("the referer stands in for an origin", post("referer", "http://example.com/a?b")),
        passes(
            "the user in an origin does not count",
            post("origin", "http://u:p@example.com"),
        ),
        refused("a fragment is part of the host of an origin", post("origin", "http://example.com#x"), invalid),
        passes("an origin without scheme is a host", post("origin", "example.com")),
        passes(
            "the port of an origin belongs to it",
            post("origin", "http://example.com:81").host("example.com:81"),
        ),
        refused("a page of another origin may not post", post("origin", "http://evil.com"), invalid),
        refused(
            "a default port that is written makes another origin",
            post("origin", "http://example.com:80"),
            invalid,
        ),
        refused("an origin keeps its case", post("origin", "http://Example.com"), invalid),
        refused("a post without origin is refused", request("POST", "/"), missing),
        refused("a put without origin is refused", request("PUT", "/"), missing),
        refused("a patch without origin is refused", request("PATCH", "/"), missing),
        refused("a delete without origin is refused", request("DELETE", "/"), missing),
        refused(
            "an origin that a browser hides is missing, whatever the referer",
            post("origin", "null").field("referer", "http://example.com/"),
            missing,
        ),
        counted(with("a request that changes nothing is not looked at", CSRF, ENFORCED))
            .send(get("/").field("origin", "http://evil.com"))
            .shows(["< 200", "stat http.@stat.csrf.request_invalid: 0"]),
        counted(with(
            "other origins are matched by their host and port",
            CSRF,
            &format!("{ENFORCED}, additional_origins: [{{ exact: \"friend.com:81\" }}, {{ exact: \"http://x.com\" }}]"),
        ))
        .send(post("origin", "http://friend.com:81"))
        .send(post("origin", "http://x.com"))
        .shows(["< 200", "< 403"]),
        counted(with(
            "a shadow counts and lets pass",
            CSRF,
            &format!("{OFF}, shadow_enabled: {{ default_value: {{ numerator: 100 }} }}"),
        ))
        .send(post("origin", "http://evil.com"))
        .shows(["< 200", "stat http.@stat.csrf.request_invalid: 1"]),
        counted(with("a policy that is off counts nothing", CSRF, OFF))
            .send(post("origin", "http://evil.com"))
            .shows(["< 200", "stat http.@stat.csrf.request_invalid: 0"]),
        counted(routed(
            "a route has a policy of its own, counted with the filter",
            (CSRF, OFF),
            (CSRF, ENFORCED),
        ))
        .send(post("origin", "http://evil.com"))
        .shows(["< 403", "stat http.@stat.csrf.request_invalid: 1"]),
    ]
}

/// A filter that gives the secret of a file, and perhaps one before that gives another.
fn injected(title: &'static str, secret: &str, fields: &str, generic: &str) -> Case {
    static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let file = secret_file(
        NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
        secret,
    );
    with(
        title,
        "credential_injector.v3.CredentialInjector",
        &format!(
            "{fields} credential: {{ name: c, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic, {generic} \
             credential: {{ name: secret, sds_config: {{ path_config_source: {{ path: {file} }} }} }} }} }}"
        ),
    )
    .stats([
        "http.@stat.credential_injector.injected",
        "http.@stat.credential_injector.failed",
        "http.@stat.credential_injector.already_exists",
    ])
}

fn secret_file(number: usize, secret: &str) -> String {
    let folder = std::env::temp_dir().join(format!("outrigger-secrets-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{number}.yaml"));
    let text = format!(
        "resources:\n- \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n  name: secret\n  generic_secret: {{ secret: {{ inline_string: \"{secret}\" }} }}\n"
    );
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// A filter that fetches a token, and what the server says.
fn fetched(title: &'static str, fields: &str, oauth2: &str, server: Kind) -> Case {
    let file = secret_file(1000, "se cret");
    with(
        title,
        "credential_injector.v3.CredentialInjector",
        &format!(
            "{fields} credential: {{ name: c, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.http.injected_credentials.oauth2.v3.OAuth2, \
             token_endpoint: {{ uri: \"http://auth.example/token\", cluster: \"@server\", timeout: 1s }}, token_fetch_retry_interval: 1s, {oauth2} }} }}"
        )
        .replace("@secret", &format!("{{ name: secret, sds_config: {{ path_config_source: {{ path: {file} }} }} }}")),
    )
    .and_backend("server", server)
    .wait(2500)
}

fn injector() -> Vec<Case> {
    let basic = "client_credentials: { client_id: me, client_secret: @secret }";
    let body = "client_credentials: { client_id: me, client_secret: @secret, auth_type: URL_ENCODED_BODY }, scopes: [a, \"b c\"], endpoint_params: [{ name: aud, value: \"x/y\" }]";
    let token = || {
        http1(reply(ok(
            "{\"access_token\":\"tok\",\"token_type\":\"bearer\",\"expires_in\":3600}",
        )))
    };
    vec![
        injected("a secret is given as it stands", "Basic abc", "", "")
            .get("/")
            .both()
            .shows([
                "> authorization: Basic abc",
                "stat http.@stat.credential_injector.injected: 1",
            ]),
        injected("the end of its line is no part of a secret", "abc \\r\\n\\n", "", "header_value_prefix: \"<\",")
            .get("/")
            .shows(["> authorization: <abc"]),
        injected("a secret of nothing but the end of a line is none", "\\n", "", "")
            .get("/")
            .shows(["< 401"]),
        fetched("a client may be known by its certificate", "", "client_credentials: { client_id: me, auth_type: TLS_CLIENT_AUTH }", token())
            .get("/")
            .shows(["< 200", "> authorization: Bearer tok", "> body grant_type=client_credentials&client_id=me"]),
        fetched("a secret is not told by a client that is known by its certificate", "", "client_credentials: { client_id: me, client_secret: @secret, auth_type: TLS_CLIENT_AUTH }", token())
            .get("/")
            .shows(["> authorization: Bearer tok", "> body grant_type=client_credentials&client_id=me"]),
        fetched("the life of a token may be a text", "", basic, http1(reply(ok("{\"access_token\":\"tok\",\"expires_in\":\"3600\"}"))))
            .get("/")
            .shows(["< 200", "> authorization: Bearer tok"]),
        injected(
            "a secret is given behind a prefix in another field",
            "abc",
            "",
            "header: X-Key, header_value_prefix: \"Key \",",
        )
        .get("/")
        .shows(["> x-key: Key abc"]),
        injected("what is there stays", "Basic abc", "", "")
            .send(authorized("mine"))
            .shows([
                "> authorization: mine",
                "stat http.@stat.credential_injector.already_exists: 1",
            ]),
        injected(
            "what is there is replaced if that is wanted",
            "Basic abc",
            "overwrite: true,",
            "",
        )
        .send(authorized("mine"))
        .shows(["> authorization: Basic abc"]),
        fetched("a token is fetched and given", "", basic, token())
            .get("/")
            .stats(["http.@stat.credential_injector.injected"])
            .shows([
                "> authorization: Bearer tok",
                "> server connection 1: POST /token HTTP/1.1",
            ]),
        fetched(
            "the secret of a client may go in the body",
            "",
            body,
            token(),
        )
        .get("/")
        .shows(["> authorization: Bearer tok"]),
        fetched(
            "without a token a request is refused",
            "",
            basic,
            Kind::Refuse,
        )
        .get("/")
        .stats(["http.@stat.credential_injector.failed"])
        .shows([
            "< 401",
            "< body Failed to inject credential.",
            "log details=failed_to_inject_credential",
            "stat http.@stat.credential_injector.failed: 1",
        ]),
        injected("a route may do without the secret", "Basic abc", "", "")
            .route("", "typed_per_filter_config: { f: { \"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true } }")
            .get("/")
            .shows(["< 200"]),
        fetched(
            "without a token a request may pass",
            "allow_request_without_credential: true,",
            basic,
            Kind::Refuse,
        )
        .get("/")
        .shows(["< 200"]),
    ]
}
