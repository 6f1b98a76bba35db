// A TLS peer of Go's crypto/tls: `peer client URL-ADDRESS MAX CA [CERT KEY]` or `peer server ADDRESS MAX CA CERT KEY`.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
)

func main() {
	args := os.Args[2:]
	max := uint16(tls.VersionTLS13)
	if args[1] == "1.2" {
		max = tls.VersionTLS12
	}
	pem, err := os.ReadFile(args[2])
	if err != nil {
		log.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	config := &tls.Config{MaxVersion: max, ServerName: "server.example", RootCAs: pool, ClientCAs: pool}
	if len(args) > 3 {
		own, err := tls.LoadX509KeyPair(args[3], args[4])
		if err != nil {
			log.Fatal(err)
		}
		config.Certificates = []tls.Certificate{own}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil }
	}
	if os.Args[1] == "server" {
		config.ClientAuth = tls.RequireAndVerifyClientCert
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "ok") })
		server := &http.Server{Addr: args[0], TLSConfig: config, Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}
		log.Fatal(server.ListenAndServeTLS("", ""))
	}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
	answer, err := client.Get("https://" + args[0] + "/")
	if err != nil {
		fmt.Println("refused")
		return
	}
	fmt.Println(answer.StatusCode, answer.Proto, tls.VersionName(answer.TLS.Version))
}
