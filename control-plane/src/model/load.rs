//! A directory of files to a [`Model`].

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::check;
use super::document::{self, Document, Step};
use super::error::InputError;
use super::kinds::API_VERSION;
use super::object::{Key, Model, Object, Origin};
use crate::cache::version_of;

/// Largest file that is read.
const MAX_FILE: u64 = 16 << 20;

/// What files were read as, so that only those that have changed are read again.
#[derive(Debug, Default)]
pub struct Cache {
    files: BTreeMap<String, Read>,
}

#[derive(Debug)]
struct Read {
    /// Of the text.
    version: String,
    objects: Vec<(Key, Origin, Object)>,
}

/// Reads all `.yaml`, `.yml` and `.json` files of a directory and of those in it. Names that begin with a dot are left
/// out, as are the twins by which Kubernetes mounts a volume.
///
/// # Errors
/// Everything that is wrong with any file.
pub fn load(directory: &Path) -> Result<Model, Vec<InputError>> {
    load_again(directory, &mut Cache::default())
}

/// [`load`] of a directory that was read before.
///
/// # Errors
/// As [`load`].
pub fn load_again(directory: &Path, cache: &mut Cache) -> Result<Model, Vec<InputError>> {
    let mut files = Vec::new();
    let mut errors = Vec::new();
    if let Err(error) = find(directory, 0, &mut files) {
        errors.push(file_error(directory, directory, &error.to_string()));
    }
    files.sort();
    let mut texts = Vec::new();
    for file in &files {
        match read_text(file) {
            Ok(text) => texts.push((name(directory, file), text)),
            Err(error) => errors.push(file_error(directory, file, &error.to_string())),
        }
    }
    match load_cached(&texts, cache) {
        Ok(model) if errors.is_empty() => Ok(model),
        Ok(_) => Err(errors),
        Err(found) => {
            errors.extend(found);
            Err(errors)
        }
    }
}

/// [`load`] of texts, each with the name of its file.
///
/// # Errors
/// As [`load`].
pub fn load_texts<'a>(
    texts: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Model, Vec<InputError>> {
    let mut loader = Loader::default();
    for (name, text) in texts {
        loader.file(name, text);
    }
    loader.finish()
}

fn load_cached(texts: &[(String, String)], cache: &mut Cache) -> Result<Model, Vec<InputError>> {
    let mut loader = Loader::default();
    let mut files = BTreeMap::new();
    for (name, text) in texts {
        let version = version_of(&[text.as_bytes()]);
        let known = cache.files.remove(name);
        let read = match known.filter(|known| known.version == version) {
            Some(known) => {
                for (key, origin, object) in known.objects.iter().cloned() {
                    if loader.model.insert(key, origin, object).is_err() {
                        // Two of one name: that is told from the texts.
                        *cache = Cache::default();
                        return load_texts(texts.iter().map(|(name, text)| (&**name, &**text)));
                    }
                }
                Some(known)
            }
            None => {
                let objects = loader.file(name, text);
                objects.map(|objects| Read { version, objects })
            }
        };
        files.extend(read.map(|read| (name.clone(), read)));
    }
    cache.files = files;
    loader.finish()
}

impl Loader {
    fn finish(mut self) -> Result<Model, Vec<InputError>> {
        self.check_defaults();
        if self.errors.is_empty() {
            Ok(self.model)
        } else {
            self.errors.sort();
            Err(self.errors)
        }
    }

    fn check_defaults(&mut self) {
        let all: Vec<_> = self.model.mesh_defaults.values().collect();
        let [first, second, ..] = &all[..] else {
            return;
        };
        let (first, second) = (&first.origin, &second.origin);
        self.errors.push(InputError {
            file: second.file.clone(),
            line: second.line,
            field: "MeshDefaults".to_owned(),
            reason: format!(
                "there may be one only, and one is in {}:{}",
                first.file, first.line
            ),
        });
    }
}

fn find(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if depth > 8 {
        return Err(io::Error::other("directories are nested deeper than 8"));
    }
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path
            .file_name()
            .is_none_or(|name| name.to_string_lossy().starts_with('.'))
        {
            continue;
        }
        if path.is_dir() {
            find(&path, depth + 1, files)?;
        } else if path.extension().is_some_and(|extension| {
            ["yaml", "yml", "json"]
                .iter()
                .any(|known| extension == *known)
        }) {
            files.push(path);
        }
    }
    Ok(())
}

fn read_text(file: &Path) -> io::Result<String> {
    if fs::metadata(file)?.len() > MAX_FILE {
        return Err(io::Error::other("larger than 16 MiB"));
    }
    fs::read_to_string(file)
}

fn name(directory: &Path, file: &Path) -> String {
    file.strip_prefix(directory)
        .unwrap_or(file)
        .display()
        .to_string()
}

fn file_error(directory: &Path, file: &Path, reason: &str) -> InputError {
    InputError {
        file: name(directory, file),
        line: 0,
        field: String::new(),
        reason: reason.to_owned(),
    }
}

#[derive(Default)]
struct Loader {
    model: Model,
    errors: Vec<InputError>,
}

/// What every object has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    api_version: String,
    kind: String,
    metadata: ObjectMeta,
}

impl Loader {
    /// The objects of the file, unless something is wrong with it.
    fn file(&mut self, file: &str, text: &str) -> Option<Vec<(Key, Origin, Object)>> {
        let errors = self.errors.len();
        let mut objects = Vec::new();
        let documents = match document::read(text) {
            Ok(documents) => documents,
            Err(error) => {
                self.errors.push(InputError {
                    file: file.to_owned(),
                    line: error.line,
                    field: String::new(),
                    reason: error.reason,
                });
                return None;
            }
        };
        for document in documents {
            let mut reader = Reader {
                file,
                document: &document,
                label: String::new(),
                errors: Vec::new(),
            };
            if let Some((key, object)) = reader.object() {
                let origin = Origin {
                    file: file.to_owned(),
                    line: document.line(),
                };
                objects.push((key.clone(), origin.clone(), object.clone()));
                if let Err(known) = self.model.insert(key, origin, object) {
                    reader.error(
                        &[Step::Key("metadata".into()), Step::Key("name".into())],
                        format!("the same object is in {}:{}", known.file, known.line),
                    );
                }
            }
            self.errors.append(&mut reader.errors);
        }
        (self.errors.len() == errors).then_some(objects)
    }
}

struct Reader<'a> {
    file: &'a str,
    document: &'a Document,
    label: String,
    errors: Vec<InputError>,
}

impl Reader<'_> {
    /// The object, unless something is wrong with it.
    fn object(&mut self) -> Option<(Key, Object)> {
        let json = self.document.to_json();
        let head: Head = match serde_path_to_error::deserialize(&json) {
            Ok(head) => head,
            Err(error) => {
                self.error(&steps_of(error.path()), error.inner().to_string());
                return None;
            }
        };
        let key = self.key(&head)?;
        self.label = format!("{} {key}", head.kind);
        let object = self.dispatch(&head, json)?;
        let mut found = Vec::new();
        check::check(&object, &mut |path, reason| found.push((path, reason)));
        for (path, reason) in found {
            self.error(&steps(&path), reason);
        }
        self.errors.is_empty().then_some((key, object))
    }

    fn key(&mut self, head: &Head) -> Option<Key> {
        let name = head.metadata.name.clone().unwrap_or_default();
        let namespace = match (head.kind.as_str(), &head.metadata.namespace) {
            ("GatewayClass" | "IngressClass", _) => String::new(),
            (_, Some(namespace)) => namespace.clone(),
            (_, None) => "default".to_owned(),
        };
        let is_name = |text: &str, dots: bool| {
            let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            !text.is_empty()
                && text.len() <= 253
                && text.chars().all(|c| good(c) || (dots && c == '.'))
                && !text.starts_with(['-', '.'])
                && !text.ends_with(['-', '.'])
        };
        let mut bad = |field: &str, value: &str| {
            self.error(
                &[Step::Key("metadata".into()), Step::Key(field.into())],
                format!("{value:?} is no name of lower-case letters, digits and `-`"),
            );
        };
        if !is_name(&name, true) {
            bad("name", &name);
            return None;
        }
        if !namespace.is_empty() && !is_name(&namespace, false) {
            bad("namespace", &namespace);
            return None;
        }
        Some(Key { namespace, name })
    }

    fn dispatch(&mut self, head: &Head, json: Json) -> Option<Object> {
        const GATEWAY: &str = "gateway.networking.k8s.io";
        const NETWORKING: &str = "networking.k8s.io";
        let (group, version) = head
            .api_version
            .split_once('/')
            .unwrap_or(("", &head.api_version));
        let is_stable = matches!(version, "v1" | "v1beta1");
        Some(match (group, head.kind.as_str()) {
            (GATEWAY, "GatewayClass") if is_stable => Object::GatewayClass(self.read(json)?),
            (GATEWAY, "Gateway") if is_stable => Object::Gateway(self.read(json)?),
            (GATEWAY, "HTTPRoute") if is_stable => Object::HttpRoute(self.read(json)?),
            (GATEWAY, "GRPCRoute") if version == "v1" => Object::GrpcRoute(self.read(json)?),
            (GATEWAY, "TLSRoute") if matches!(version, "v1" | "v1alpha3" | "v1alpha2") => {
                Object::TlsRoute(self.read(json)?)
            }
            (GATEWAY, "TCPRoute") if version == "v1alpha2" => Object::TcpRoute(self.read(json)?),
            (GATEWAY, "ReferenceGrant") if is_stable => Object::ReferenceGrant(self.read(json)?),
            (GATEWAY, "BackendTLSPolicy") if matches!(version, "v1" | "v1alpha3") => {
                Object::BackendTlsPolicy(self.read(json)?)
            }
            (NETWORKING, "Ingress") if version == "v1" => Object::Ingress(self.read(json)?),
            (NETWORKING, "IngressClass") if version == "v1" => {
                Object::IngressClass(self.read(json)?)
            }
            ("", "Service") if version == "v1" => Object::Service(self.read(json)?),
            ("discovery.k8s.io", "EndpointSlice") if version == "v1" => {
                Object::EndpointSlice(self.read(json)?)
            }
            ("", "Secret") if version == "v1" => Object::Secret(self.read(json)?),
            ("", "ConfigMap") if version == "v1" => Object::ConfigMap(self.read(json)?),
            _ if head.api_version == API_VERSION => match head.kind.as_str() {
                "Workload" => Object::Workload(self.read(json)?),
                "MeshDefaults" => Object::MeshDefaults(self.read(json)?),
                "TrafficPolicy" => Object::TrafficPolicy(self.read(json)?),
                "AuthorizationPolicy" => Object::AuthorizationPolicy(self.read(json)?),
                "PeerAuthentication" => Object::PeerAuthentication(self.read(json)?),
                "RateLimit" => Object::RateLimit(self.read(json)?),
                "JwtProvider" => Object::JwtProvider(self.read(json)?),
                "GatewayPolicy" => Object::GatewayPolicy(self.read(json)?),
                _ => return self.unknown(head),
            },
            _ => return self.unknown(head),
        })
    }

    fn unknown(&mut self, head: &Head) -> Option<Object> {
        self.error(
            &[Step::Key("kind".into())],
            format!("no kind {} of {} is read", head.kind, head.api_version),
        );
        None
    }

    fn read<T: DeserializeOwned>(&mut self, json: Json) -> Option<Box<T>> {
        let mut ignored = Vec::new();
        let mut track = serde_path_to_error::Track::new();
        let result = T::deserialize(serde_ignored::Deserializer::new(
            serde_path_to_error::Deserializer::new(json, &mut track),
            &mut |path: serde_ignored::Path<'_>| ignored.push(steps_of_ignored(&path)),
        ));
        // Some types know their own version and kind and do not read them.
        ignored.retain(
            |path| !matches!(&path[..], [Step::Key(key)] if key == "apiVersion" || key == "kind"),
        );
        match result {
            Ok(object) if ignored.is_empty() => Some(Box::new(object)),
            Ok(_) => {
                for path in ignored {
                    self.error(&path, "there is no such field".to_owned());
                }
                None
            }
            Err(error) => {
                self.error(&steps_of(&track.path()), error.to_string());
                None
            }
        }
    }

    fn error(&mut self, path: &[Step], reason: String) {
        let mut field = self.label.clone();
        if !path.is_empty() {
            if !field.is_empty() {
                field.push_str(": ");
            }
            field.push_str(&text_of(path));
        }
        self.errors.push(InputError {
            file: self.file.to_owned(),
            line: self.document.line_of(path),
            field,
            reason,
        });
    }
}

fn steps_of(path: &serde_path_to_error::Path) -> Vec<Step> {
    use serde_path_to_error::Segment;
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect()
}

fn steps_of_ignored(path: &serde_ignored::Path<'_>) -> Vec<Step> {
    use serde_ignored::Path;
    let (parent, step) = match path {
        Path::Root => return Vec::new(),
        Path::Seq { parent, index } => (parent, Some(Step::Index(*index))),
        Path::Map { parent, key } => (parent, Some(Step::Key(key.clone()))),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => (parent, None),
    };
    let mut steps = steps_of_ignored(parent);
    steps.extend(step);
    steps
}

/// The steps of a path such as `spec.rules[0].matches`.
fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in path.split('.') {
        let mut parts = part.split('[');
        steps.extend(parts.next().map(|name| Step::Key(name.to_owned())));
        for index in parts {
            steps.extend(index.trim_end_matches(']').parse().map(Step::Index));
        }
    }
    steps
}

fn text_of(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => {
                text.push('.');
                text.push_str(key);
            }
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs:
  - name: edge
  rules:
  - backendRefs:
    - name: shop
      port: 80
";

    fn errors(text: &str) -> Vec<String> {
        let errors = load_texts([("a.yaml", text)]).unwrap_err();
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_was_read_before_means_the_same_again() {
        let texts = |second: &str| {
            [("a.yaml", ROUTE), ("b.yaml", second)]
                .map(|(name, text)| (name.to_owned(), text.to_owned()))
        };
        let service = |name: &str| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]}}\n"
            )
        };
        let mut cache = Cache::default();
        for name in ["one", "two"] {
            let texts = texts(&service(name));
            let model = load_cached(&texts, &mut cache).unwrap();
            assert!(model.http_routes.contains_key(&Key::new("default", "shop")));
            let services: Vec<_> = model.services.keys().collect();
            assert_eq!(services, [&Key::new("default", name)]);
            assert_eq!(cache.files.len(), 2);
        }
        // Wrong files, and two of one name, are told as ever, and again.
        for wrong in ["kind: Nothing\n", ROUTE] {
            let texts = texts(wrong);
            let plain = load_texts(texts.iter().map(|(name, text)| (&**name, &**text)));
            for _ in 0..2 {
                let errors = load_cached(&texts, &mut cache).unwrap_err();
                assert_eq!(&errors, plain.as_ref().unwrap_err());
            }
        }
        assert!(load_cached(&texts(&service("one")), &mut cache).is_ok());
    }

    #[test]
    fn kinds_are_mixed_in_one_file() {
        let text = format!(
            "{ROUTE}---\napiVersion: v1\nkind: Service\nmetadata: {{name: shop, namespace: x}}\nspec: {{ports: [{{port: 80}}]}}\n---\n---\napiVersion: outrigger.dev/v1alpha1\nkind: Workload\nmetadata: {{name: a}}\nspec: {{address: 127.0.0.1}}\n"
        );
        let model = load_texts([("a.yaml", text.as_str())]).unwrap();
        assert!(model.http_routes.contains_key(&Key::new("default", "shop")));
        assert!(model.services.contains_key(&Key::new("x", "shop")));
        assert_eq!(model.workloads[&Key::new("default", "a")].origin.line, 18);
    }

    #[test]
    fn an_unknown_field_of_a_foreign_kind_is_named_with_its_line() {
        let text = ROUTE.replace("      port: 80", "      prot: 80");
        assert_eq!(
            errors(&text),
            [
                "a.yaml:10: HTTPRoute default/shop: spec.rules[0].backendRefs[0].prot: there is no such field"
            ]
        );
    }

    #[test]
    fn a_wrong_type_is_named_with_its_line() {
        let text = ROUTE.replace("port: 80", "port: eighty");
        let errors = errors(&text);
        assert_eq!(errors.len(), 1);
        assert!(
            errors[0].starts_with(
                "a.yaml:10: HTTPRoute default/shop: spec.rules[0].backendRefs[0].port: invalid type"
            ),
            "{errors:?}"
        );
    }

    #[test]
    fn an_unknown_field_of_our_own_kinds_is_named_with_its_line() {
        let errors = errors(
            "apiVersion: outrigger.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: a}\nspec:\n  service: {name: b}\n  timeout: 3s\n  retry: {}\n",
        );
        assert_eq!(errors.len(), 1);
        assert!(
            errors[0].starts_with("a.yaml:7: TrafficPolicy default/a: spec.retry: unknown field"),
            "{errors:?}"
        );
    }

    #[test]
    fn every_error_of_every_object_is_reported() {
        let text = format!(
            "{}---\napiVersion: v1\nkind: Pod\nmetadata: {{name: x}}\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: Bad}}\n",
            ROUTE.replace("port: 80", "port: 80\n      weight: -1")
        );
        let errors = errors(&text);
        assert_eq!(errors.len(), 3, "{errors:?}");
        assert!(errors[0].contains("a.yaml:11: HTTPRoute default/shop: spec.rules[0].backendRefs[0].weight: -1 is not in 0..=1000000"), "{errors:?}");
        assert!(
            errors[1].contains("a.yaml:14: Pod default/x: kind: no kind Pod of v1 is read")
                || errors[1].contains("no kind Pod"),
            "{errors:?}"
        );
        assert!(errors[2].contains("no name of lower-case"), "{errors:?}");
    }

    #[test]
    fn two_objects_of_one_name_are_an_error_that_names_both_places() {
        let text = format!("{ROUTE}---\n{ROUTE}");
        assert_eq!(
            errors(&text),
            ["a.yaml:14: HTTPRoute default/shop: metadata.name: the same object is in a.yaml:1"]
        );
    }
}
