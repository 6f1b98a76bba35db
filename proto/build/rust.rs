//! Rust types for our own messages. Types that `envoy-types` has are referred to, not made again.

use std::error::Error;
use std::path::Path;

use crate::descriptor::{FileSet, MessageType};

/// Writes `ours.rs` and the modules that it includes into `out`.
pub(crate) fn generate(
    shipped: &[u8],
    compiled: &[u8],
    known: &FileSet,
    out: &Path,
) -> Result<(), Box<dyn Error>> {
    let mut config = prost_build::Config::new();
    config
        .compile_well_known_types()
        .enable_type_names()
        .out_dir(out)
        .include_file("ours.rs");
    for file in &known.file {
        let module = format!("::envoy_types::pb::{}", path(&file.package));
        for message in &file.messages {
            declare_message(&mut config, &format!(".{}", file.package), &module, message);
        }
        for name in file.enums.iter().map(|kind| &kind.name) {
            config.extern_path(
                format!(".{}.{name}", file.package),
                format!("{module}::{name}"),
            );
        }
    }
    // Two encoded sets one after the other are the encoding of both together.
    let all = [shipped, compiled].concat();
    config.compile_fds(prost::Message::decode(all.as_slice())?)?;
    Ok(())
}

fn declare_message(
    config: &mut prost_build::Config,
    scope: &str,
    module: &str,
    message: &MessageType,
) {
    let name = format!("{scope}.{}", message.name);
    config.extern_path(
        name.clone(),
        format!("{module}::{}", upper_camel(&message.name)),
    );
    let inner = format!("{module}::{}", escape(&snake(&message.name)));
    for nested in &message.nested {
        declare_message(config, &name, &inner, nested);
    }
    for kind in &message.enums {
        config.extern_path(
            format!("{name}.{}", kind.name),
            format!("{inner}::{}", upper_camel(&kind.name)),
        );
    }
}

fn path(package: &str) -> String {
    package
        .split('.')
        .map(|part| escape(&snake(part)))
        .collect::<Vec<_>>()
        .join("::")
}

/// Words begin at a capital after a small letter or digit, and at the last capital of a run before a small letter.
fn words(name: &str) -> Vec<String> {
    let characters: Vec<char> = name.chars().collect();
    let mut words = vec![String::new()];
    for (index, &character) in characters.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| characters[before]);
        let after = characters.get(index + 1);
        let starts = character.is_uppercase()
            && before.is_some_and(|before| {
                before.is_lowercase()
                    || before.is_numeric()
                    || (before.is_uppercase() && after.is_some_and(|after| after.is_lowercase()))
            });
        if starts || character == '_' {
            words.push(String::new());
        }
        if character != '_' {
            let last = words.len() - 1;
            words[last].push(character);
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn snake(name: &str) -> String {
    words(name)
        .iter()
        .map(|word| word.to_lowercase())
        .collect::<Vec<_>>()
        .join("_")
}

fn upper_camel(name: &str) -> String {
    words(name)
        .iter()
        .map(|word| {
            let mut characters = word.chars();
            characters.next().map_or(String::new(), |first| {
                first
                    .to_uppercase()
                    .chain(characters.flat_map(char::to_lowercase))
                    .collect()
            })
        })
        .collect()
}

fn escape(name: &str) -> String {
    match name {
        "type" | "match" | "enum" | "struct" | "mod" | "ref" | "use" | "where" | "static" => {
            format!("r#{name}")
        }
        _ => name.to_owned(),
    }
}
