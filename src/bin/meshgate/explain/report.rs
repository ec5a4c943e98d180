//! The explanation, written down.

use std::fmt::Write as _;

use meshgate::headers::Edit;
use meshgate::worker::Disposition;
use serde_json::{Value, json};

use super::Question;
use super::remedy;
use super::show;
use super::steps::Told;
use super::world::{Given, Run};

/// For people.
pub fn text(run: &Run, told: &Told, question: &Question) -> String {
    let mut out = String::new();
    // A String takes all that is written to it.
    let _ = write_text(&mut out, run, told, question);
    out
}

fn write_text(out: &mut String, run: &Run, told: &Told, question: &Question) -> std::fmt::Result {
    let path = pseudo(question, ":path");
    writeln!(
        out,
        "{} {}  at {}, `mode: {}`",
        pseudo(question, ":method"),
        path,
        show::time(question.at),
        run.config.mode.name()
    )?;
    for name in &question.missing {
        writeln!(out, "note: {name} is not set here, something else stands for that secret")?;
    }
    writeln!(out)?;
    for step in &told.steps {
        let mark = if step.refused.is_some() { "REFUSED" } else { "ok" };
        let mut lines = step.lines.iter();
        writeln!(out, "  {mark:<8} {:<14} {}", step.name, lines.next().map_or("", String::as_str))?;
        for line in lines {
            writeln!(out, "  {:<8} {:<14} {line}", "", "")?;
        }
    }
    let missing: Vec<String> = missing_calls(run);
    if !missing.is_empty() {
        writeln!(out, "\ncalls that no file answers:")?;
        missing.iter().try_for_each(|line| writeln!(out, "  {line}"))?;
    }
    writeln!(out)?;
    match &run.disposition {
        Disposition::Deny(denial) => {
            writeln!(out, "refused: {} {}", denial.code.status(), denial.code.name())?;
        }
        Disposition::Forward(..) => writeln!(out, "allowed; the upstream sees:")?,
        Disposition::Answer(_) => writeln!(out, "answered by the filter itself")?,
        Disposition::Allow(..) => writeln!(out, "allowed; the proxy that asks is told so")?,
        Disposition::Pause => writeln!(out, "it would wait")?,
    }
    for (name, value) in upstream(run, question) {
        writeln!(out, "  {name}: {value}")?;
    }
    if let Some(reply) = run.reply() {
        writeln!(out, "the client gets:\n  {}", reply.status)?;
        for (name, value) in &reply.headers {
            writeln!(out, "  {name}: {value}")?;
        }
        if let Some(status) = reply.grpc_status {
            writeln!(out, "  grpc-status: {status}")?;
        }
        writeln!(out, "  {}", reply.body)?;
    }
    if let Some(denial) = run.denial() {
        writeln!(out, "remedy: {}", remedy::of(denial.code))?;
    }
    Ok(())
}

/// For programs.
pub fn json(run: &Run, told: &Told, question: &Question) -> String {
    let steps: Vec<Value> = told
        .steps
        .iter()
        .map(|step| {
            json!({
                "step": step.name,
                "verdict": if step.refused.is_some() { "refused" } else { "ok" },
                "code": step.refused.map(meshgate::denial::Code::name),
                "found": step.lines,
            })
        })
        .collect();
    let calls: Vec<Value> = run
        .calls
        .iter()
        .map(|made| {
            let (answered, option) = match made.answer {
                Given::By(option) => (true, Some(option)),
                Given::No(option) => (false, Some(option)),
                Given::Moot => (true, None),
            };
            json!({"for": made.purpose, "request": made.request, "answered": answered, "option": option})
        })
        .collect();
    let upstream: Option<Vec<Value>> =
        matches!(run.disposition, Disposition::Forward(..)).then(|| {
            let headers = upstream(run, question);
            headers.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
        });
    let reply = run.reply().map(|reply| {
        let headers: Vec<Value> =
            reply.headers.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        json!({"status": reply.status, "grpc_status": reply.grpc_status, "headers": headers, "body": reply.body})
    });
    let document = json!({
        "at": show::time(question.at),
        "mode": run.config.mode.name(),
        "allowed": run.denial().is_none(),
        "code": run.denial().map(|denial| denial.code.name()),
        "status": run.denial().map(|denial| denial.code.status()),
        "explained": told.agrees,
        "steps": steps,
        "calls": calls,
        "reply": reply,
        "upstream": upstream,
        "remedy": run.denial().map(|denial| remedy::of(denial.code)),
        "not_set": question.missing,
    });
    format!("{document:#}\n")
}

fn missing_calls(run: &Run) -> Vec<String> {
    let missing = run.calls.iter().filter_map(|made| match made.answer {
        Given::No(option) => Some(format!("{}: {} ({option})", made.purpose, made.request)),
        Given::By(_) | Given::Moot => None,
    });
    missing.collect()
}

/// A pseudo-header of the request, without a query.
fn pseudo(question: &Question, name: &str) -> String {
    let found = question.head.iter().find(|field| field.name == name);
    let value = found.map(|field| String::from_utf8_lossy(&field.value)).unwrap_or_default();
    show::plain(value.split('?').next().unwrap_or_default())
}

/// The headers that the upstream would see. Values are shown of those that meshgate sets; others may be
/// secrets of the client's, and the service's own token is one.
fn upstream(run: &Run, question: &Question) -> Vec<(String, String)> {
    let Disposition::Forward(edits, _) = &run.disposition else {
        return Vec::new();
    };
    let mut fields: Vec<(String, Vec<u8>)> =
        question.head.iter().map(|field| (field.name.clone(), field.value.clone())).collect();
    for edit in run.strip.iter().chain(edits) {
        match edit {
            Edit::Remove(name) => fields.retain(|(own, _)| own != name),
            Edit::Set(name, value) => match fields.iter_mut().find(|(own, _)| own == name) {
                Some((_, own)) => own.clone_from(value),
                None => fields.push((name.clone(), value.clone())),
            },
        }
    }
    let context = &run.config.context.headers;
    let is_ours = |name: &str| {
        name == "x-service-name" || context.iter().any(|header| header.name.as_str() == name)
    };
    let made =
        |name: &str| edits.iter().any(|edit| matches!(edit, Edit::Set(own, _) if own == name));
    fields
        .into_iter()
        .map(|(name, value)| {
            let shown = match name.as_str() {
                ":path" => {
                    let path = value.split(|byte| *byte == b'?').next().unwrap_or_default();
                    let query = if path.len() == value.len() { "" } else { "?…" };
                    format!("{}{query}", show::plain(&String::from_utf8_lossy(path)))
                }
                ":method" | ":authority" => show::plain(&String::from_utf8_lossy(&value)),
                "x-request-id" if made("x-request-id") => "(a new one)".to_owned(),
                own if is_ours(own) => show::plain(&String::from_utf8_lossy(&value)),
                _ => format!("({} bytes)", value.len()),
            };
            (show::plain(&name), shown)
        })
        .collect()
}
