"""The little of the S3 protocol that is needed to set a server up, signed by hand.

Source: "Authenticating Requests (AWS Signature Version 4)", Amazon S3 API Reference.
"""

import datetime
import hashlib
import hmac
import http.client
import urllib.parse


def request(method, endpoint, region, key, secret, path, body=b"", timeout=10):
    """One signed request, path-style. Answers the status and the body."""
    url = urllib.parse.urlsplit(endpoint)
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(body).hexdigest()
    headers = {"host": url.netloc, "x-amz-content-sha256": digest, "x-amz-date": now}
    names = ";".join(sorted(headers))
    escaped = urllib.parse.quote(path)
    canonical = "\n".join(
        [method, escaped, "", *(f"{name}:{headers[name]}" for name in sorted(headers)), "", names, digest])
    scope = f"{now[:8]}/{region}/s3/aws4_request"
    to_sign = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    signing_key = ("AWS4" + secret).encode()
    for word in (*scope.split("/"), to_sign):
        signing_key = hmac.new(signing_key, word.encode(), hashlib.sha256).digest()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={names}, Signature={signing_key.hex()}")
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=timeout)
    try:
        connection.request(method, escaped, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
