//! Stats and admin pages after traffic.

use crate::case::{Act, Case, Kind, Step, With, acts, case, get, ok, reply, request, send, status};

pub fn cases() -> Vec<Case> {
    [stats(), pages()].into_iter().flatten().collect()
}

fn stats() -> Vec<Case> {
    vec![
        case("a cluster has these stats after a request")
            .get("/")
            .page("/stats", "cluster.@backend.")
            .shows([
                "page cluster.@backend.upstream_rq_total: 1",
                "page cluster.@backend.upstream_cx_http1_total: 1",
                "page cluster.@backend.upstream_rq_time: (histogram)",
                "page cluster.@backend.membership_healthy: 1",
            ]),
        case("a connection manager has these stats after a request")
            .get("/")
            .page("/stats", "http.@stat.")
            .shows(["page http.@stat.downstream_rq_total: 1", "page http.@stat.downstream_rq_2xx: 1"]),
        case("a listener with a stat prefix has these stats after a request")
            .listener("stat_prefix: \"@stat\"")
            .get("/")
            .page("/stats", "listener.@stat.")
            .shows(["page listener.@stat.downstream_cx_total: 1", "page listener.@stat.http.@stat.downstream_rq_2xx: 1"]),
        case("responses count by class on both sides of the proxy")
            .replies([reply(ok("")), reply(status(404, "")), reply(status(302, "")), acts([Act::Close])])
            .get("/")
            .get("/")
            .get("/")
            .get("/")
            .page("/stats", "http.@stat.downstream_rq_")
            .page("/stats", "cluster.@backend.upstream_rq_")
            .page("/stats", "cluster.@backend.external.")
            .shows([
                "page http.@stat.downstream_rq_5xx: 1",
                "page cluster.@backend.upstream_rq_404: 1",
                "page cluster.@backend.external.upstream_rq_2xx: 1",
            ]),
        case("an internal request counts as internal")
            .internal()
            .get("/")
            .page("/stats", "cluster.@backend.internal.")
            .shows(["page cluster.@backend.internal.upstream_rq_200: 1"]),
        case("HTTP/2 on both sides has these stats")
            .upstream_http2()
            .get("/")
            .http2()
            .page("/stats", "http.@stat.downstream_cx_http2")
            .page("/stats", "cluster.@backend.http2.")
            .page("/stats", "cluster.@backend.upstream_cx_http2")
            .deviates("h2 does not tell what these stats count")
            .shows(["page http.@stat.downstream_cx_http2_total: 1", "page cluster.@backend.upstream_cx_http2_total: 1"]),
        case("the router counts what it could not route")
            .routes("- { match: { path: /a }, @say(a) }")
            .get("/b")
            .get("/a")
            .page("/stats", "http.@stat.no_")
            .page("/stats", "http.@stat.rq_")
            .shows(["page http.@stat.no_route: 1", "page http.@stat.rq_direct_response: 1"]),
        case("a malformed request counts as a codec error")
            .raw("G@T / HTTP/1.1\r\nhost: a\r\n\r\n")
            .page("/stats", "http.@stat.downstream_")
            .shows(["page http.@stat.downstream_cx_protocol_error: 1"]),
        case("a timeout counts in the cluster")
            .route("timeout: 0.2s", "")
            .reply(crate::case::late(1000, "late"))
            .get("/")
            .page("/stats", "cluster.@backend.upstream_rq_timeout")
            .page("/stats", "cluster.@backend.upstream_rq_504")
            .shows(["page cluster.@backend.upstream_rq_timeout: 1", "page cluster.@backend.upstream_rq_504: 1"]),
        case("tcp_proxy has these stats after a connection")
            .network("- name: tcp\n  typed_config: { \"@type\": \"@net/tcp_proxy.v3.TcpProxy\", stat_prefix: \"@stat\", cluster: @backend }")
            .access_log("- { name: none }")
            .backend(Kind::Tcp(vec![vec![Act::Read(4), send("pong"), Act::Close]]))
            .bytes("ping")
            .step(Step::ReadToEnd)
            .logs(0)
            .page("/stats", "tcp.@stat.")
            .shows(["page tcp.@stat.downstream_cx_total: 1", "page tcp.@stat.downstream_cx_rx_bytes_total: N"]),
        case("stats of a virtual cluster count its requests")
            .vhosts("
                - name: vhost
                  domains: [\"*\"]
                  virtual_clusters: [{ name: reads, headers: [{ name: \":method\", string_match: { exact: GET } }] }]
                  routes: [{ match: { prefix: / }, route: { cluster: @backend } }]")
            .get("/")
            .page("/stats", "vhost.vhost.vcluster.reads.upstream_rq_")
            .log_format("%VIRTUAL_CLUSTER_NAME%", "")
            .shows(["log reads", "page vhost.vhost.vcluster.reads.upstream_rq_total: 1"]),
        case("Prometheus names and labels of a cluster")
            .get("/")
            .page("/stats/prometheus?filter=upstream_rq_total", "envoy_cluster_upstream_rq_total{envoy_cluster_name=\"@backend\"}")
            .shows(["page envoy_cluster_upstream_rq_total{envoy_cluster_name=\"@backend\"} 1"]),
        case("Prometheus names and labels of a connection manager")
            .get("/")
            .page("/stats/prometheus?filter=downstream_rq_2xx", "envoy_http_downstream_rq_xx{envoy_response_code_class=\"2\",envoy_http_conn_manager_prefix=\"@stat\"}")
            .shows(["page envoy_http_downstream_rq_xx{envoy_response_code_class=\"2\",envoy_http_conn_manager_prefix=\"@stat\"} 1"]),
    ]
}

fn pages() -> Vec<Case> {
    vec![
        case("/clusters tells about a cluster and its hosts")
            .get("/")
            .page("/clusters", "@backend::")
            .shows([
                "page @backend::default_priority::max_connections::1024",
                "page @backend::127.0.0.1:@port:backend::rq_success::1",
            ]),
        case("/ready says LIVE")
            .get("/")
            .page("/ready", "")
            .shows(["page /ready: 200", "page LIVE"]),
        case("/listeners lists a listener")
            .get("/")
            .page("/listeners", "@listener::")
            .shows(["page @listener::127.0.0.1:@port"]),
        case("an unknown page is 404")
            .get("/")
            .page("/nonsense", "invalid")
            .shows(["page /nonsense: 404"]),
        case("a page that changes something wants POST")
            .send(request("GET", "/").field("x", "y"))
            .page("/logging", "")
            .page("/healthcheck/fail", "")
            .shows(["page /logging: 405", "page /healthcheck/fail: 405"]),
        case("/stats takes a filter")
            .send(get("/"))
            .page("/stats?filter=upstream_rq_total$", "cluster.@backend.")
            .shows(["page cluster.@backend.upstream_rq_total: 1"])
            .lacks(["page cluster.@backend.upstream_cx*"]),
        case("/stats with usedonly leaves out what was not touched")
            .get("/")
            .page("/stats?usedonly", "cluster.@backend.upstream_rq_re")
            .page("/stats?usedonly", "cluster.@backend.upstream_rq_t")
            .shows(["page cluster.@backend.upstream_rq_total: 1"])
            .lacks(["page cluster.@backend.upstream_rq_retry*"]),
        case("/stats can show gauges only")
            .get("/")
            .page("/stats?type=Gauges", "cluster.@backend.")
            .shows(["page cluster.@backend.membership_total: 1"])
            .lacks(["page cluster.@backend.upstream_rq_total*"]),
    ]
}
