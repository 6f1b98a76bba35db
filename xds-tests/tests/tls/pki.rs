//! The certificates of all cases, made at run time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};

/// The certificates of all cases, in files.
pub struct Pki {
    pub folder: PathBuf,
}

pub type Authority = Issuer<'static, KeyPair>;

impl Pki {
    pub fn make(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let pki = Self {
            folder: folder.to_owned(),
        };
        let ca = pki.authority("ca", "Test CA", 2035);
        let other = pki.authority("other_ca", "Other CA", 2035);
        let old = pki.authority("old_ca", "Old CA", 2021);
        pki.leaf("server", &ca, 2035, |params| {
            params.subject_alt_names = vec![
                dns("server.example"),
                SanType::URI("spiffe://td/ns/a/sa/b".try_into().unwrap()),
            ];
        });
        pki.leaf("client", &ca, 2035, |params| {
            let name = &mut params.distinguished_name;
            name.push(DnType::OrganizationName, "Org, Inc.");
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.subject_alt_names = vec![
                SanType::URI("spiffe://td/ns/c/sa/d".try_into().unwrap()),
                dns("client.example"),
                dns("second.example"),
            ];
        });
        pki.leaf("two_uris", &ca, 2035, |params| {
            params.subject_alt_names = vec![
                SanType::URI("spiffe://td/first".try_into().unwrap()),
                SanType::URI("spiffe://td/second".try_into().unwrap()),
            ];
        });
        pki.leaf("expired", &ca, 2021, |params| {
            params.subject_alt_names = vec![dns("client.example")];
        });
        pki.leaf("wrong_ca", &other, 2035, |params| {
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        });
        pki.leaf("of_old_ca", &old, 2035, |_| {});
        pki.leaf("wrong_san", &ca, 2035, |params| {
            params.subject_alt_names = vec![dns("other.example")];
        });
        pki.leaf("no_san", &ca, 2035, |params| {
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        });
        pki.leaf("is_ca", &ca, 2035, |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        });
        pki.leaf("server_only", &ca, 2035, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        });
        let key = KeyPair::generate().unwrap();
        let own = params("self_signed", 2035).self_signed(&key).unwrap();
        pki.write("self_signed", &own.pem(), &key);
        pki.first_version();
        pki.intermediate(&ca);
        pki.revoked(&ca);
        pki.rsa(&ca);
        pki.encrypted_keys();
        pki.staples(&ca);
        pki.spiffe();
        let keys: Vec<u8> = (0..80).collect();
        fs::write(folder.join("tickets.key"), keys).unwrap();
        let secret = format!(
            "resources:\n- \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n  name: tickets\n  session_ticket_keys: {{ keys: [ {{ filename: {} }} ] }}\n",
            pki.file("tickets.key")
        );
        pki.text("tickets.yaml", &secret);
        pki.names(&ca);
        pki
    }

    /// A CA below the CA, with a leaf and one that it has revoked, and the lists of both CAs.
    fn intermediate(&self, ca: &Authority) {
        let mut params = params("Intermediate CA", 2035);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, ca).unwrap().pem();
        self.write("intermediate", &pem, &key);
        let issuer = Issuer::new(params, key);
        for (name, serial) in [("deep", 71), ("deep_revoked", 72)] {
            self.leaf(name, &issuer, 2035, |params| {
                params.serial_number = Some(SerialNumber::from(vec![serial]));
            });
            let leaf = fs::read_to_string(self.crt(name)).unwrap();
            fs::write(self.crt(name), leaf + &pem).unwrap();
        }
        let of_ca = self.revocation("ca_crl", ca, 61, 2035);
        let of_intermediate = self.revocation("intermediate_crl", &issuer, 72, 2035);
        self.revocation("old_crl", ca, 61, 2021);
        let both = of_ca + &of_intermediate;
        fs::write(self.folder.join("both_crl.pem"), both).unwrap();
    }

    fn revocation(&self, file: &str, issuer: &Authority, serial: u8, until: i32) -> String {
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(vec![1]),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from(vec![serial]),
                revocation_time: date_time_ymd(2020, 6, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let pem = list.signed_by(issuer).unwrap().pem().unwrap();
        fs::write(self.folder.join(format!("{file}.pem")), &pem).unwrap();
        pem
    }

    fn revoked(&self, ca: &Authority) {
        self.leaf("revoked", ca, 2035, |params| {
            params.serial_number = Some(SerialNumber::from(vec![61]));
            params.subject_alt_names = vec![dns("client.example")];
        });
    }

    fn rsa(&self, ca: &Authority) {
        for (name, host) in [("rsa", "rsa.example"), ("rsa_client", "client.example")] {
            let mut params = params(name, 2035);
            params.use_authority_key_identifier_extension = true;
            params.subject_alt_names = vec![dns(host)];
            let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
            self.write(name, &params.signed_by(&key, ca).unwrap().pem(), &key);
        }
        let mut params = params("wraps", 2035);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        self.write("wraps", &params.signed_by(&key, ca).unwrap().pem(), &key);
        let mut params = crate::pki::params("p384", 2035);
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        self.write("p384", &params.signed_by(&key, ca).unwrap().pem(), &key);
    }

    /// Keys that open with the password `sesame`, in both ways in which they are encrypted, and in SEC1 and PKCS#1.
    fn encrypted_keys(&self) {
        let run = |arguments: &[&str], from: &str, to: &str| {
            let mut command = Command::new("openssl");
            command.args(arguments).arg("-in").arg(self.key(from));
            command.arg("-out").arg(self.key(to));
            assert!(command.output().expect("openssl runs").status.success());
        };
        let pkcs8 = [
            "pkcs8",
            "-topk8",
            "-v2",
            "aes-256-cbc",
            "-passout",
            "pass:sesame",
        ];
        run(&pkcs8, "server", "pkcs8");
        let legacy = ["rsa", "-traditional", "-aes128", "-passout", "pass:sesame"];
        run(&legacy, "rsa", "legacy");
        run(&["ec"], "server", "sec1");
        run(&["rsa", "-traditional"], "rsa", "pkcs1");
        fs::write(self.folder.join("password"), "sesame").unwrap();
    }

    /// A certificate that must be stapled, and OCSP responses for it and for that of the server.
    fn staples(&self, ca: &Authority) {
        self.leaf("must_staple", ca, 2035, |params| {
            params.serial_number = Some(SerialNumber::from(vec![81]));
            let oid = [1, 3, 6, 1, 5, 5, 7, 1, 24];
            let feature = CustomExtension::from_oid_content(&oid, vec![0x30, 3, 2, 1, 5]);
            params.custom_extensions = vec![feature];
        });
        self.leaf("stapled", ca, 2035, |params| {
            params.serial_number = Some(SerialNumber::from(vec![82]));
        });
        let index = "V\t350101000000Z\t\t51\tunknown\t/CN=must_staple\nV\t350101000000Z\t\t52\tunknown\t/CN=stapled\n";
        fs::write(self.folder.join("index.txt"), index).unwrap();
        for (name, file, days) in [
            ("must_staple", "must_staple.ocsp", &["-ndays", "30"][..]),
            ("stapled", "stapled.ocsp", &["-ndays", "30"]),
            ("stapled", "endless.ocsp", &[]),
        ] {
            let mut command = Command::new("openssl");
            command
                .arg("ocsp")
                .arg("-index")
                .arg(self.folder.join("index.txt"));
            command
                .arg("-CA")
                .arg(self.crt("ca"))
                .arg("-rsigner")
                .arg(self.crt("ca"));
            command
                .arg("-rkey")
                .arg(self.key("ca"))
                .arg("-issuer")
                .arg(self.crt("ca"));
            command.arg("-cert").arg(self.crt(name)).args(days);
            command.arg("-respout").arg(self.folder.join(file));
            let output = command.output().expect("openssl runs");
            assert!(
                output.status.success() && self.folder.join(file).exists(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }

    /// The CA as a SPIFFE bundle.
    fn spiffe(&self) {
        let pem = fs::read_to_string(self.crt("ca")).unwrap();
        let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let json = format!(
            "{{\"trust_domains\": {{\"td\": {{\"spiffe_sequence\": 1, \"keys\": [{{\"kty\": \"EC\", \"use\": \"x509-svid\", \"x5c\": [\"{base64}\"]}}]}}}}}}"
        );
        fs::write(self.folder.join("bundle.json"), json).unwrap();
    }

    /// A leaf with names of every kind, and stars in some.
    fn names(&self, ca: &Authority) {
        self.leaf("names", ca, 2035, |params| {
            let text = |text: &str| text.try_into().unwrap();
            let oid = vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3];
            params.subject_alt_names = vec![
                dns("*.star.example"),
                dns("a*.part.example"),
                dns("Host.Example"),
                SanType::Rfc822Name(text("Some.Body@mail.example")),
                SanType::IpAddress("127.0.0.9".parse().unwrap()),
                SanType::IpAddress("2001:db8::1".parse().unwrap()),
                SanType::URI(text("spiffe://td/ns/n/sa/names")),
                SanType::OtherName((oid, "user@realm".into())),
            ];
        });
    }

    pub fn text(&self, file: &str, text: &str) {
        fs::write(self.folder.join(file), text).unwrap();
    }

    pub fn authority(&self, file: &str, name: &str, until: i32) -> Authority {
        let mut params = params(name, until);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        self.write(file, &params.self_signed(&key).unwrap().pem(), &key);
        Issuer::new(params, key)
    }

    pub fn leaf(
        &self,
        file: &str,
        issuer: &Authority,
        until: i32,
        change: impl FnOnce(&mut CertificateParams),
    ) {
        let mut params = params(file, until);
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        self.write(file, &params.signed_by(&key, issuer).unwrap().pem(), &key);
    }

    /// An X.509 v1 certificate, which only OpenSSL makes.
    fn first_version(&self) {
        let path = |name: &str| self.folder.join(name);
        let key = KeyPair::generate().unwrap();
        fs::write(path("v1.key"), key.serialize_pem()).unwrap();
        openssl(
            &["req", "-new", "-subj", "/CN=v1", "-key"],
            &[path("v1.key")],
            &["-out"],
            &[path("v1.csr")],
        );
        let mut command = Command::new("openssl");
        command.args(["x509", "-req", "-days", "900", "-CAcreateserial", "-in"]);
        command.arg(path("v1.csr")).arg("-CA").arg(path("ca.crt"));
        command
            .arg("-CAkey")
            .arg(path("ca.key"))
            .arg("-out")
            .arg(path("v1.crt"));
        assert!(command.output().expect("openssl runs").status.success());
    }

    pub fn write(&self, file: &str, certificate: &str, key: &KeyPair) {
        fs::write(self.folder.join(format!("{file}.crt")), certificate).unwrap();
        fs::write(self.folder.join(format!("{file}.key")), key.serialize_pem()).unwrap();
    }

    /// Another file of the folder.
    pub fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    pub fn crt(&self, name: &str) -> String {
        self.folder
            .join(format!("{name}.crt"))
            .display()
            .to_string()
    }

    pub fn key(&self, name: &str) -> String {
        self.folder
            .join(format!("{name}.key"))
            .display()
            .to_string()
    }
}

pub fn openssl(first: &[&str], file: &[PathBuf], then: &[&str], out: &[PathBuf]) {
    let mut command = Command::new("openssl");
    command.args(first).args(file).args(then).args(out);
    assert!(command.output().expect("openssl runs").status.success());
}

pub fn params(name: &str, until: i32) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    params
}

pub fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}
