//! Adds our own messages, and our fields for messages that exist already, to the shipped descriptors.

use std::error::Error;

use crate::PATCH_PACKAGE;
use crate::descriptor::{EnumType, File, FileSet, MessageType};

/// Joins `ours` into `known`. A message `outrigger.patch.P.M` adds its fields to `P.M`. A field that
/// is there already takes the options of the patch, and with them its rules.
pub(crate) fn merge(known: &mut FileSet, ours: FileSet) -> Result<(), Box<dyn Error>> {
    for mut file in ours.file {
        file.messages.iter_mut().for_each(strip_patch_names);
        let Some(package) = file.package.strip_prefix(PATCH_PACKAGE) else {
            known.file.push(file);
            continue;
        };
        let package = package.trim_start_matches('.').to_owned();
        for message in file.messages {
            let target = find_message(known, &package, &message.name).ok_or_else(|| {
                format!(
                    "{}: no message {package}.{} to patch",
                    file.name, message.name
                )
            })?;
            patch_message(target, message)?;
        }
        for patch in file.enums {
            let target = known
                .file
                .iter_mut()
                .filter(|candidate| candidate.package == package)
                .flat_map(|candidate| candidate.enums.iter_mut())
                .find(|candidate| candidate.name == patch.name)
                .ok_or_else(|| {
                    format!("{}: no enum {package}.{} to patch", file.name, patch.name)
                })?;
            patch_enum(target, patch);
        }
    }
    Ok(())
}

fn find_message<'a>(
    known: &'a mut FileSet,
    package: &str,
    name: &str,
) -> Option<&'a mut MessageType> {
    known
        .file
        .iter_mut()
        .filter(|file: &&mut File| file.package == package)
        .flat_map(|file| file.messages.iter_mut())
        .find(|message| message.name == name)
}

fn patch_message(target: &mut MessageType, patch: MessageType) -> Result<(), Box<dyn Error>> {
    let mut oneofs = Vec::new();
    for oneof in patch.oneofs {
        let known = target
            .oneofs
            .iter()
            .position(|candidate| candidate.name == oneof.name);
        oneofs.push(known.unwrap_or_else(|| {
            target.oneofs.push(oneof);
            target.oneofs.len() - 1
        }));
    }
    for mut field in patch.fields {
        if let Some(known) = target
            .fields
            .iter_mut()
            .find(|known| known.name == field.name || known.number == field.number)
        {
            let same = (
                &known.name,
                known.number,
                known.kind,
                &known.type_name,
                known.label,
            ) == (
                &field.name,
                field.number,
                field.kind,
                &field.type_name,
                field.label,
            );
            if !same {
                return Err(format!(
                    "{}.{}: {} = {} is there already",
                    target.name, field.name, known.name, known.number
                )
                .into());
            }
            known.options = field.options;
            continue;
        }
        field.patched = true;
        field.oneof = match field.oneof {
            Some(index) => Some(i32::try_from(oneofs[usize::try_from(index)?])?),
            None => None,
        };
        target.fields.push(field);
    }
    for nested in patch.nested {
        match target
            .nested
            .iter_mut()
            .find(|known| known.name == nested.name)
        {
            Some(known) => patch_message(known, nested)?,
            None => target.nested.push(nested),
        }
    }
    for patch in patch.enums {
        match target
            .enums
            .iter_mut()
            .find(|known| known.name == patch.name)
        {
            Some(known) => patch_enum(known, patch),
            None => target.enums.push(patch),
        }
    }
    Ok(())
}

/// proto3 wants a value zero in every enum, so a patch repeats it: values that exist are passed over.
fn patch_enum(target: &mut EnumType, patch: EnumType) {
    for value in patch.values {
        if !target
            .values
            .iter()
            .any(|known| known.number == value.number)
        {
            target.values.push(value);
        }
    }
}

fn strip_patch_names(message: &mut MessageType) {
    let prefix = format!(".{PATCH_PACKAGE}.");
    for field in &mut message.fields {
        if let Some(rest) = field.type_name.strip_prefix(&prefix) {
            field.type_name = format!(".{rest}");
        }
    }
    message.nested.iter_mut().for_each(strip_patch_names);
}
