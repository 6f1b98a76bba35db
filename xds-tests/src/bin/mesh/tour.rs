//! What the example shows, one step after another. A step whose promise does not come true is an error.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use outrigger_xds_tests::Error;
use outrigger_xds_tests::example::Example;

use crate::processes::{HTTP, HTTPS, example};

const IDENTITY: &str = "spiffe://mesh.local/ns/default/sa";

/// Through the gateway to c, by way of a and b.
pub(crate) fn first_request(mesh: &mut Example) -> Result<(), Error> {
    let expected = format!(
        "a was called by {IDENTITY}/edge\nb was called by {IDENTITY}/a\nc was called by {IDENTITY}/b\n"
    );
    let answer = until(mesh, &["/"], "the whole way to be there", |answer| {
        *answer == (200, expected.clone())
    })?;
    show(mesh, "/", &answer);
    Ok(())
}

/// The gateway may not call c.
pub(crate) fn forbidden_request(mesh: &mut Example) -> Result<(), Error> {
    let answer = until(mesh, &["/c"], "the call to be denied", |answer| {
        answer.0 == 403
    })?;
    show(mesh, "/c", &answer);
    let line = mesh.eventually("c's sidecar to log why", |mesh| {
        let log = mesh.log("sidecar-c")?;
        let mut lines = log.lines();
        let found = lines.find(|line| {
            line.contains("rbac_access_denied") && line.contains(&format!("{IDENTITY}/edge"))
        });
        Ok(found.map(str::to_owned))
    })?;
    println!("   in the log of c's sidecar: {line}\n");
    Ok(())
}

/// Edits one file after another.
pub(crate) fn edits(mesh: &mut Example) -> Result<(), Error> {
    canary(mesh)?;
    retry(mesh)?;
    rate_limit(mesh)?;
    fault(mesh)?;
    rotation(mesh)?;
    println!("Traffic is as it was in the beginning.\n");
    let text = fs::read_to_string(example().join("mesh/traffic.yaml"))?;
    mesh.write("traffic.yaml", &text)
}

fn canary(mesh: &mut Example) -> Result<(), Error> {
    step(mesh, "canary")?;
    let mut seen = BTreeSet::new();
    mesh.eventually("both versions of c to answer", |mesh| {
        let (status, body) = curl(mesh, "/")?;
        if status == 200 {
            seen.extend(body.lines().last().map(str::to_owned));
        }
        Ok((seen.len() == 2).then_some(()))
    })?;
    for line in &seen {
        println!("   {line}");
    }
    let versions = ["c was called by", "c-v2 was called by"];
    if !versions
        .iter()
        .all(|version| seen.iter().any(|line| line.starts_with(version)))
    {
        return Err(format!("these are not c and c-v2: {seen:?}").into());
    }
    println!();
    Ok(())
}

fn retry(mesh: &mut Example) -> Result<(), Error> {
    step(mesh, "../mesh/traffic")?;
    let answer = until(mesh, &["/flaky"], "a request to fail", |answer| {
        answer.0 == 503
    })?;
    show(mesh, "/flaky", &answer);
    step(mesh, "retry")?;
    mesh.eventually("twenty requests in a row to succeed", |mesh| {
        for _ in 0..20 {
            if curl(mesh, "/flaky")?.0 != 200 {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })?;
    println!("   20 times curl .../flaky: 20 times 200\n");
    Ok(())
}

fn rate_limit(mesh: &mut Example) -> Result<(), Error> {
    step(mesh, "rate-limit")?;
    let answer = until(mesh, &["/"], "a request too many", |answer| answer.0 == 429)?;
    show(mesh, "/", &answer);
    Ok(())
}

fn fault(mesh: &mut Example) -> Result<(), Error> {
    step(mesh, "fault")?;
    let answer = until(mesh, &["/"], "the fault", |answer| answer.0 == 418)?;
    show(mesh, "/", &answer);
    Ok(())
}

/// The gateway takes the new certificate without the end of a connection; the old one is not shown again.
fn rotation(mesh: &mut Example) -> Result<(), Error> {
    step(mesh, "../mesh/traffic")?;
    let old = trust(mesh, "certificate-1.pem");
    let new = trust(mesh, "certificate-2.pem");
    let old: Vec<_> = old.iter().map(String::as_str).collect();
    let new: Vec<_> = new.iter().map(String::as_str).collect();
    let (status, _) = until(mesh, &old, "the first certificate", |answer| {
        answer.0 == 200
    })?;
    println!("   curl {}: {status}", old.join(" "));
    println!("   certificate.yaml gets another certificate");
    certificate(mesh, "certificate-2.pem")?;
    let (status, _) = until(mesh, &new, "the second certificate", |answer| {
        answer.0 == 200
    })?;
    println!("   curl {}: {status}", new.join(" "));
    let (status, _) = until(mesh, &old, "the first certificate to go", |answer| {
        answer.0 == 0
    })?;
    println!(
        "   curl {}: {status}, it is not trusted any more\n",
        old.join(" ")
    );
    Ok(())
}

/// Replaces `traffic.yaml` by the text of a step.
fn step(mesh: &Example, name: &str) -> Result<(), Error> {
    let text = fs::read_to_string(example().join("steps").join(format!("{name}.yaml")))?;
    println!("   traffic.yaml is now:");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        println!("      {line}");
    }
    mesh.write("traffic.yaml", &text)
}

/// Writes the gateway's first certificate.
pub(crate) fn first_certificate(mesh: &Example) -> Result<(), Error> {
    certificate(mesh, "certificate-1.pem")
}

/// Writes a new certificate for the gateway into the input, and for curl into a file.
fn certificate(mesh: &Example, name: &str) -> Result<(), Error> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let pem = made.cert.pem();
    fs::write(mesh.folder.join(name), &pem)?;
    let indented = |text: &str| text.trim().replace('\n', "\n    ").replace('\r', "");
    let text = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{ name: edge-tls }}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n    {}\n  tls.key: |\n    {}\n",
        indented(&pem),
        indented(&made.signing_key.serialize_pem())
    );
    // Not through `Example::write`, which changes numbers: a key has some.
    let new = mesh.folder.join("certificate.yaml");
    fs::write(&new, text)?;
    fs::rename(new, mesh.folder.join("mesh/certificate.yaml"))?;
    Ok(())
}

fn trust(mesh: &Example, name: &str) -> Vec<String> {
    let port = mesh.address(HTTPS).port();
    let file = mesh.folder.join(name).display().to_string();
    vec![
        "--cacert".to_owned(),
        file,
        format!("https://localhost:{port}/"),
    ]
}

fn until(
    mesh: &mut Example,
    words: &[&str],
    what: &str,
    is_right: impl Fn(&(u16, String)) -> bool,
) -> Result<(u16, String), Error> {
    let mut last = None;
    let found = mesh.eventually(what, |mesh| {
        let answer = match words {
            [path] => curl(mesh, path)?,
            words => curl_with(words)?,
        };
        if is_right(&answer) {
            return Ok(Some(answer));
        }
        last = Some(answer);
        Ok(None)
    });
    found.map_err(|error| format!("{error}; the last answer was {last:?}").into())
}

fn curl(mesh: &Example, path: &str) -> Result<(u16, String), Error> {
    curl_with(&[&format!("http://{}{path}", mesh.address(HTTP))])
}

/// Status and body; status 0 if there is no answer.
fn curl_with(words: &[&str]) -> Result<(u16, String), Error> {
    let output = Command::new("curl")
        .args(["--silent", "--max-time", "10", "--noproxy", "*"])
        .args(["--write-out", "\n%{http_code}"])
        .args(words)
        .output()
        .map_err(|error| format!("curl is needed: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').ok_or("curl says nothing")?;
    Ok((status.parse()?, body.to_owned()))
}

fn show(mesh: &Example, path: &str, (status, body): &(u16, String)) {
    println!("   curl http://{}{path}: {status}", mesh.address(HTTP));
    for line in body.lines() {
        println!("      {line}");
    }
    println!();
}
