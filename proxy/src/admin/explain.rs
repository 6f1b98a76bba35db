//! `POST /explain`: what becomes of a request under the configuration in force. Outrigger's own.

use super::{Admin, Answer, JSON, Request, Response};
use crate::explain::{Configuration, Question, explain};

/// Explains away from the main thread, which has connections to serve.
pub(super) fn answer(admin: &Admin, request: &Request<'_>) -> Answer {
    let question = match question(request) {
        Ok(question) => question,
        Err(error) => return Answer::Ready(Response::error(400, format!("{error}\n"))),
    };
    let as_json = request.query.value("format") == Some("json");
    let server = admin.source.server();
    let configuration = Configuration::of_dumps(&admin.source.config_dump(false), server);
    Answer::Work(Box::new(move || match explain(&configuration, &question) {
        Ok(explanation) if as_json => Response::new(JSON, explanation.to_json()),
        Ok(explanation) => Response::text(explanation.to_string()),
        Err(errors) => Response::error(400, errors.join("\n") + "\n"),
    }))
}

fn question(request: &Request<'_>) -> Result<Question, String> {
    let query = &request.query;
    let text = query.value("request").filter(|text| !text.is_empty());
    let usage = "usage: /explain?request=GET%20http://HOST/PATH&header=NAME:VALUE&listener=NAME&source=IP&format=json";
    let mut question = Question::parse(text.ok_or(usage)?)?;
    for (_, line) in query
        .iter()
        .filter(|(name, line)| *name == "header" && !line.is_empty())
    {
        question.add_header(line)?;
    }
    let given = |name| query.value(name).filter(|text| !text.is_empty());
    question.listener = given("listener").map(str::to_owned);
    if let Some(source) = given("source") {
        question.set_source(source)?;
    }
    Ok(question)
}
