"""nginx, one worker: hash of the session header, connections to the backends kept."""

from bench.compare.rival import Place, Rival, find_program, first_line


def _start(place: Place) -> list[str]:
    servers = "\n".join(f"        server 127.0.0.1:{port};" for port in place.backend_ports)
    tls = f"ssl_certificate {place.certificate}; ssl_certificate_key {place.certificate};" if place.certificate else ""
    (place.directory / "nginx.conf").write_text(f"""
daemon off;
user root;
pid nginx.pid;
error_log error.log;
worker_processes {place.workers};
worker_rlimit_nofile {place.open_files_max};
events {{
    worker_connections {place.open_files_max - 100};
}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    upstream mcp {{
        hash $http_mcp_session_id;
{servers}
        keepalive 256;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{place.port} backlog=4096 {"ssl" if place.certificate else ""};
        {tls}
        keepalive_timeout 300s;
        keepalive_requests 1000000000;
        client_max_body_size 8m;
        location / {{
            proxy_pass http://mcp;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_read_timeout 300s;
            proxy_request_buffering off;
            proxy_max_temp_file_size 0;
        }}
    }}
}}
""")
    directory = str(place.directory)
    return [
        str(find_program("nginx")),
        "-p",
        directory,
        "-c",
        f"{directory}/nginx.conf",
        "-e",
        f"{directory}/error.log",
    ]


HASH = Rival(
    name="nginx-hash",
    start=_start,
    find=lambda: find_program("nginx"),
    version=lambda: first_line(find_program("nginx"), "-v"),
    hint="apt-get install nginx-light",
    learns=False,
    remembers=False,
    abilities=frozenset({"tls", "workers"}),
)
