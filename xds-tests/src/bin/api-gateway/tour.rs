//! What the example shows, one step after another. A step whose promise does not come true is an error.

use outrigger_xds_tests::Error;
use outrigger_xds_tests::example::Example;

use crate::issuer::Issuer;
use crate::processes::HTTP;
use crate::server::{Answer, call};

/// Requests of which the canary gets a share.
const MANY: usize = 300;

/// A user comes through the gateway to the service, which learns who it is and not the token.
pub(crate) fn first_request(gateway: &mut Example, issuer: &Issuer) -> Result<(), Error> {
    let token = issuer.token("first", "orders", 60)?;
    let answer = gateway.eventually("the gateway to serve", |it| {
        // It is not there at once, and has a limit.
        let is_there = ask(it, "/public/ready", None).is_ok_and(|(status, ..)| status != 404);
        Ok(is_there
            .then(|| ask(it, "/orders", Some(&token)).ok())
            .flatten())
    })?;
    println!("3. The first request:\n\n   {}", answer.2);
    let is_for = |name: &str| answer.2 == format!("{name} for first\n");
    expect("a good token", &answer, 200)?;
    match is_for("orders") || is_for("orders-next") {
        true => Ok(()),
        false => Err(format!("the service was told something else: {answer:?}").into()),
    }
}

/// All of it.
pub(crate) fn all(gateway: &mut Example, issuer: &Issuer) -> Result<(), Error> {
    println!("4. Who may call:");
    tokens(gateway, issuer)?;
    println!("5. How often:");
    limits(gateway, issuer)?;
    println!("6. Pages of other origins:");
    cors(gateway, issuer)?;
    println!("7. A service that fails:");
    retries(gateway, issuer)?;
    println!("8. The canary:");
    canary(gateway, issuer)
}

fn tokens(gateway: &Example, issuer: &Issuer) -> Result<(), Error> {
    let good = issuer.token("tom", "orders", 60)?;
    let forged = Issuer::new("example")?.token("tom", "orders", 60)?;
    // A clock may be a minute late.
    let expired = issuer.token("tom", "orders", -90)?;
    let other = issuer.token("tom", "billing", 60)?;
    let (head, rest) = good.split_once('.').unwrap_or_default();
    let unsigned = format!(
        "eyJhbGciOiJub25lIn0.{}.",
        rest.split('.').next().unwrap_or(head)
    );
    for (what, token, status) in [
        ("a good token", Some(&good), 200),
        ("no token", None, 401),
        ("an expired token", Some(&expired), 401),
        ("a token of another issuer", Some(&forged), 401),
        ("a token for another audience", Some(&other), 403),
        ("a token without a signature", Some(&unsigned), 401),
    ] {
        let answer = ask(gateway, "/orders", token.map(String::as_str))?;
        expect(what, &answer, status)?;
    }
    let open = ask(gateway, "/public/terms", None)?;
    expect("no token for /public/terms", &open, 200)?;
    // Not by another way of writing it either.
    for path in [
        "/public/../orders",
        "/public/%2e%2e/orders",
        "/public//../../orders",
    ] {
        expect(
            &format!("no token for {path}"),
            &ask(gateway, path, None)?,
            401,
        )?;
    }
    let escaped = ask(gateway, "/public/..%2forders", None)?;
    expect("no token for /public/..%2forders", &escaped, 400)
}

/// A minute may end in between, and what the control plane does not answer within half a second passes uncounted: then somebody
/// else, who has the same limit, shows it.
fn limits(gateway: &Example, issuer: &Issuer) -> Result<(), Error> {
    let others = ["anna", "annie"];
    let shown = others.iter().fold(
        limit_of("ann", gateway, issuer),
        |shown, other| match shown {
            Err(error) => {
                println!("   not so: {error}");
                limit_of(other, gateway, issuer)
            }
            shown => shown,
        },
    );
    shown?;
    let bob = issuer.token("bob", "orders", 60)?;
    expect("bob", &ask(gateway, "/orders", Some(&bob))?, 200)
}

fn limit_of(user: &str, gateway: &Example, issuer: &Issuer) -> Result<(), Error> {
    let ann = issuer.token(user, "orders", 60)?;
    for left in (0..5).rev() {
        let answer = ask(gateway, "/orders", Some(&ann))?;
        expect("ann", &answer, 200)?;
        let told = answer.1.get("x-ratelimit-remaining").map(String::as_str);
        if told != Some(&left.to_string()) {
            return Err(format!("{left} are left, and ann was told {told:?}").into());
        }
    }
    // Another token of the same user is no way out.
    let again = issuer.token(user, "orders", 59)?;
    expect(
        "ann once more",
        &ask(gateway, "/orders", Some(&again))?,
        429,
    )
}

fn cors(gateway: &Example, issuer: &Issuer) -> Result<(), Error> {
    let preflight = |origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization"),
        ];
        call(gateway.address(HTTP), ("OPTIONS", "/orders"), &headers)
    };
    let allowed = preflight("https://shop.example")?;
    expect("a preflight of https://shop.example", &allowed, 200)?;
    for (header, value) in [
        ("access-control-allow-origin", "https://shop.example"),
        ("access-control-allow-methods", "GET,POST"),
        ("access-control-allow-headers", "authorization"),
    ] {
        if allowed.1.get(header).map(String::as_str) != Some(value) {
            return Err(format!("{header} is not {value}: {allowed:?}").into());
        }
    }
    let other = preflight("https://evil.example")?;
    expect("a preflight of https://evil.example", &other, 401)?;
    let token = issuer.token("cora", "orders", 60)?;
    let authorization = format!("Bearer {token}");
    let headers = [
        ("origin", "https://shop.example"),
        ("authorization", authorization.as_str()),
    ];
    let read = call(gateway.address(HTTP), ("GET", "/orders"), &headers)?;
    expect("a request of https://shop.example", &read, 200)?;
    match (read.1.get("access-control-allow-origin"), &other.1) {
        (Some(_), others) if !others.contains_key("access-control-allow-origin") => Ok(()),
        _ => Err(format!("the wrong page may read: {read:?} {other:?}").into()),
    }
}

fn retries(gateway: &Example, issuer: &Issuer) -> Result<(), Error> {
    let mut tries = 0;
    for user in 0..20 {
        let token = issuer.token(&format!("retry{user}"), "orders", 60)?;
        let answer = ask(gateway, "/flaky", Some(&token))?;
        if answer.0 != 200 {
            return Err(format!("request {user} failed: {answer:?}").into());
        }
        tries += 1;
    }
    println!("   {tries} times 200 of /flaky, which answers 503 every second time");
    Ok(())
}

fn canary(gateway: &Example, issuer: &Issuer) -> Result<(), Error> {
    let mut next = 0;
    for user in 0..MANY {
        let token = issuer.token(&format!("canary{user}"), "orders", 60)?;
        let answer = ask(gateway, "/orders", Some(&token))?;
        if answer.0 != 200 {
            return Err(format!("request {user} failed: {answer:?}").into());
        }
        next += usize::from(answer.2.starts_with("orders-next"));
    }
    println!("   {next} of {MANY} requests went to orders-next");
    // Ten in a hundred: less than once in ten thousand runs it is outside.
    match (10..=52).contains(&next) {
        true => Ok(()),
        false => Err("that are not ten in a hundred".into()),
    }
}

fn ask(gateway: &Example, path: &str, token: Option<&str>) -> Result<Answer, Error> {
    let value = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<_> = value.iter().map(|it| ("authorization", &**it)).collect();
    Ok(call(gateway.address(HTTP), ("GET", path), &headers)?)
}

fn expect(what: &str, answer: &Answer, status: u16) -> Result<(), Error> {
    println!("   {what}: {}", answer.0);
    match answer.0 == status {
        true => Ok(()),
        false => Err(format!("{what} was to be answered with {status}: {answer:?}").into()),
    }
}
