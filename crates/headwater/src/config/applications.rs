//! The table of applications: names, and what decides on their publishers.

use std::{collections::BTreeSet, path::PathBuf};

use control::{AdmissionSource, Application, KeySetLocation, SignedKeys, Webhook};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{
    check::Check,
    scalar::{Count, HttpsUrl, OneOrMany, Period},
};

/// A name alone (stream keys that control keeps decide), or a section.
#[derive(Clone, Debug, Default)]
pub(super) struct Written(Section);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Section {
    admission: Option<AdmissionSection>,
    name: Option<String>,
}

/// One of the three.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct AdmissionSection {
    managed: Option<ManagedSection>,
    signed: Option<SignedSection>,
    webhook: Option<WebhookSection>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct ManagedSection {}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SignedSection {
    audience: Option<String>,
    issuer: Option<String>,
    jwks_file: Option<PathBuf>,
    jwks_url: Option<HttpsUrl>,
    tenant: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct WebhookSection {
    concurrency_max: Option<Count<usize>>,
    secret_file: Option<PathBuf>,
    tenant: Option<String>,
    timeout: Option<Period>,
    url: Option<HttpsUrl>,
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WrittenVisitor)
    }
}

struct WrittenVisitor;

impl<'de> Visitor<'de> for WrittenVisitor {
    type Value = Written;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an application's name, or a section with its name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Written, E> {
        Ok(Written(Section {
            name: Some(name.to_owned()),
            admission: None,
        }))
    }

    fn visit_map<A: MapAccess<'de>>(self, section: A) -> Result<Written, A::Error> {
        Section::deserialize(MapAccessDeserializer::new(section)).map(Written)
    }
}

/// What may be published to. Files are not looked at: the table is in the live file as well, which every role reads and
/// where control alone has them.
pub(super) fn finish(given: OneOrMany<Written>, check: &mut Check) -> Vec<Application> {
    const PATH: &str = "control.applications";
    let mut names = BTreeSet::new();
    let mut applications = Vec::new();
    for (index, Written(section)) in given.finish(PATH, check).into_iter().enumerate() {
        let path = format!("{PATH}[{index}]");
        let name = check.required(&format!("{path}.name"), section.name);
        let admission = match section.admission {
            None => Some(AdmissionSource::Managed),
            Some(admission) => admission.finish(&format!("{path}.admission"), check),
        };
        let Some(name) = name else {
            continue;
        };
        if let Err(expected) = control::check_application(&name) {
            check.mistake(
                PATH,
                format_args!("{name:?} is not an application: {expected}"),
            );
        }
        if !names.insert(name.clone()) {
            check.mistake(PATH, format_args!("{name:?} is there twice"));
        }
        applications.extend(admission.map(|admission| Application { name, admission }));
    }
    applications
}

impl AdmissionSection {
    fn finish(self, path: &str, check: &mut Check) -> Option<AdmissionSource> {
        match (self.managed, self.signed, self.webhook) {
            (Some(ManagedSection {}), None, None) => Some(AdmissionSource::Managed),
            (None, Some(signed), None) => signed
                .finish(&format!("{path}.signed"), check)
                .map(AdmissionSource::Signed),
            (None, None, Some(webhook)) => webhook
                .finish(&format!("{path}.webhook"), check)
                .map(AdmissionSource::Webhook),
            _ => {
                check.mistake(path, "needs one of managed, signed and webhook");
                None
            }
        }
    }
}

impl SignedSection {
    fn finish(self, path: &str, check: &mut Check) -> Option<SignedKeys> {
        let issuer = check.required(&format!("{path}.issuer"), self.issuer);
        let audience = check.required(&format!("{path}.audience"), self.audience);
        let tenant = tenant(&format!("{path}.tenant"), self.tenant, check);
        let keys = match (self.jwks_file, self.jwks_url) {
            (Some(file), None) => Some(KeySetLocation::File(check.resolve(&file))),
            (None, Some(url)) => Some(KeySetLocation::Url(url.0)),
            (None, None) | (Some(_), Some(_)) => {
                check.mistake(path, "needs one of jwks_file and jwks_url");
                None
            }
        };
        Some(SignedKeys {
            keys: keys?,
            issuer: issuer?,
            audience: audience?,
            tenant,
        })
    }
}

impl WebhookSection {
    fn finish(self, path: &str, check: &mut Check) -> Option<Webhook> {
        let url = check.required(&format!("{path}.url"), self.url);
        let secret_file = check.required(&format!("{path}.secret_file"), self.secret_file);
        let timeout = self
            .timeout
            .map_or(control::WEBHOOK_TIMEOUT, |timeout| timeout.0);
        if timeout > control::WEBHOOK_TIMEOUT_MAX {
            let path = format!("{path}.timeout");
            check.mistake(path, "is longer than 2s: edges wait 2.5 s for a decision");
        }
        let concurrency_max = self
            .concurrency_max
            .map_or(control::WEBHOOK_CONCURRENCY, |count| count.0);
        if concurrency_max > control::WEBHOOK_CONCURRENCY_MAX {
            let most = control::WEBHOOK_CONCURRENCY_MAX;
            let path = format!("{path}.concurrency_max");
            check.mistake(path, format_args!("is more than {most}"));
        }
        Some(Webhook {
            url: url?.0,
            secret_file: check.resolve(&secret_file?),
            tenant: tenant(&format!("{path}.tenant"), self.tenant, check),
            timeout,
            concurrency_max,
        })
    }
}

fn tenant(path: &str, tenant: Option<String>, check: &mut Check) -> Option<String> {
    if let Some(tenant) = &tenant
        && let Err(expected) = control::check_tenant(tenant)
    {
        check.mistake(path, format_args!("{tenant:?} is not a tenant: {expected}"));
    }
    tenant
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: serde_json::Value, check: &mut Check) -> Vec<Application> {
        finish(serde_json::from_value(value).unwrap(), check)
    }

    #[test]
    fn an_application_is_a_name_or_a_section() {
        let directory = tempfile::tempdir().unwrap();
        let mut check = Check::new(&directory.path().join("control.yaml"));
        let table = json!([
            "live",
            {"name": "plain", "admission": {"managed": {}}},
            {"name": "signed", "admission": {"signed": {
                "issuer": "i", "audience": "a", "jwks_file": "jwks.json", "tenant": "t",
            }}},
            {"name": "afar", "admission": {"signed": {
                "issuer": "i", "audience": "a", "jwks_url": "https://platform.example/jwks",
            }}},
            {"name": "asked", "admission": {"webhook": {
                "url": "https://platform.example/publish", "secret_file": "secret", "timeout": "1s",
                "concurrency_max": 4,
            }}},
        ]);
        let applications = read(table, &mut check);
        assert!(check.passed(), "{:?}", check.into_error());
        let signed = |keys, tenant: Option<&str>| {
            AdmissionSource::Signed(SignedKeys {
                keys,
                issuer: "i".to_owned(),
                audience: "a".to_owned(),
                tenant: tenant.map(str::to_owned),
            })
        };
        let url = |path: &str| format!("https://platform.example/{path}").parse().unwrap();
        let file = |name: &str| directory.path().join(name);
        let webhook = AdmissionSource::Webhook(Webhook {
            url: url("publish"),
            secret_file: file("secret"),
            tenant: None,
            timeout: std::time::Duration::from_secs(1),
            concurrency_max: 4,
        });
        let expected = [
            ("live", AdmissionSource::Managed),
            ("plain", AdmissionSource::Managed),
            (
                "signed",
                signed(KeySetLocation::File(file("jwks.json")), Some("t")),
            ),
            ("afar", signed(KeySetLocation::Url(url("jwks")), None)),
            ("asked", webhook),
        ];
        let expected = expected.map(|(name, admission)| Application {
            name: name.to_owned(),
            admission,
        });
        assert_eq!(applications, expected);
    }

    #[test]
    fn every_mistake_has_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let mut check = Check::new(&directory.path().join("control.yaml"));
        let table = json!([
            {"name": "a", "admission": {"managed": {}, "signed": {}}},
            {"admission": {"signed": {}}},
            {"name": "c", "admission": {"webhook": {"timeout": "3s", "concurrency_max": 5000, "tenant": "a/b"}}},
            "c",
        ]);
        read(table, &mut check);
        let error = check.into_error();
        let paths: Vec<_> = error
            .mistakes()
            .iter()
            .filter_map(|mistake| mistake.split(": ").next())
            .map(|path| path.trim_start_matches("control.applications"))
            .collect();
        assert_eq!(
            paths,
            [
                "",
                "[0].admission",
                "[1].admission.signed",
                "[1].admission.signed.audience",
                "[1].admission.signed.issuer",
                "[1].name",
                "[2].admission.webhook.concurrency_max",
                "[2].admission.webhook.secret_file",
                "[2].admission.webhook.tenant",
                "[2].admission.webhook.timeout",
                "[2].admission.webhook.url",
            ],
            "{error}"
        );
    }
}
