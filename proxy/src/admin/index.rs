//! `/`: the commands as a page to click through; and `/help`.

use std::fmt::Write;

use super::paths::{self, HANDLERS, Handler, Input, Parameter};
use super::{Admin, HTML, Request, Response};
use crate::stats::render::html::escape;

const STYLE: &str = "body{font-family:sans-serif}table{border-collapse:collapse}td{padding:4px 10px 4px 4px;\
vertical-align:top}tr.command td{border-top:1px solid #ccc}tr.option td:first-child{padding-left:24px}\
button.link{background:none;border:0;padding:0;font:inherit;color:#069;text-decoration:underline;cursor:pointer}\
form{margin:0}";

pub(super) fn show(admin: &Admin, _: &Request<'_>) -> Response {
    let mut out = head("Outrigger Admin");
    let node = &admin.source.server().local_info;
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "<h1>Outrigger</h1>\n<p>node <b>{}</b>, cluster <b>{}</b></p>\n\
         <table>\n<thead><tr><th>Command</th><th>Description</th></tr></thead>\n<tbody>\n",
        escape(&node.node_id),
        escape(&node.cluster)
    );
    for handler in HANDLERS.iter().filter(|handler| handler.path != "/") {
        command(&mut out, handler);
    }
    out.push_str("</tbody>\n</table>\n</body>\n</html>\n");
    Response::new(HTML, out)
}

pub(super) fn help(_: &Admin, _: &Request<'_>) -> Response {
    Response::text(paths::help())
}

/// The beginning of a page.
pub(super) fn head(title: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n<title>{}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n",
        escape(title)
    )
}

fn command(out: &mut String, handler: &Handler) {
    let name = &handler.path[1..];
    let about = escape(handler.about);
    let link = if handler.post {
        format!("<form action='{name}' method='post' id='{name}'><button>{name}</button></form>")
    } else if handler.parameters.is_empty() {
        format!("<a href='{name}'>{name}</a>")
    } else {
        format!(
            "<form action='{name}' method='get' id='{name}'><button class='link'>{name}</button></form>"
        )
    };
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "<tr class='command'><td>{link}</td><td>{about}</td></tr>"
    );
    for parameter in handler.parameters {
        option(out, name, parameter);
    }
}

fn option(out: &mut String, form: &str, parameter: &Parameter) {
    let Parameter { name, about, input } = parameter;
    let id = format!("{form}-{name}");
    let field = match input {
        Input::Text => format!("<input type='text' name='{name}' id='{id}' form='{form}'>"),
        Input::Flag => format!("<input type='checkbox' name='{name}' id='{id}' form='{form}'>"),
        Input::Choice(values) => {
            let options: String = values
                .iter()
                .map(|value| format!("<option value='{value}'>{value}</option>"))
                .collect();
            format!("<select name='{name}' id='{id}' form='{form}'>{options}</select>")
        }
    };
    let about = escape(about);
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "<tr class='option'><td>{field}</td><td><label for='{id}'>{name}: {about}</label></td></tr>"
    );
}
