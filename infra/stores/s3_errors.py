"""S3's error codes in sentences with remedies. Plain text; knows no client library."""

from __future__ import annotations

ABSENT = frozenset({"NoSuchKey", "404"})
TAKEN = frozenset({"PreconditionFailed", "412"})
CONFLICT = frozenset({"ConditionalRequestConflict", "OperationAborted", "409"})  # "ask again" by S3's own words

REMEDIES: tuple[tuple[frozenset[str], str], ...] = (
    (
        frozenset({"NoSuchBucket"}),
        "the bucket '{bucket}' does not exist. Create it, or correct tracking.store.",
    ),
    (
        frozenset({"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"}),
        (
            "no credentials were found. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (on the workers too), "
            "a profile, or an instance role."
        ),
    ),
    (
        frozenset({"ProfileNotFound"}),
        "the profile of s3.profile is not in the AWS configuration of this machine. Run `aws configure list-profiles`.",
    ),
    (
        frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed", "ExpiredToken"}),
        "the credentials or the region were refused ({code}). Check the access key, its secret and s3.region.",
    ),
    (
        frozenset({"AccessDenied", "AllAccessDisabled", "403", "Forbidden"}),
        (
            "the credentials do not allow it. Grant s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket "
            "on '{bucket}'."
        ),
    ),
    (
        frozenset({"PermanentRedirect", "301", "IllegalLocationConstraintException"}),
        "the bucket '{bucket}' lives in another region. Set s3.region.",
    ),
    (
        frozenset({"NotImplemented", "501", "InvalidTrailer", "XAmzContentChecksumMismatch", "MalformedTrailerError"}),
        (
            "the server does not know a part of the request ({code}). Try s3.checksums=when_required; a server without "
            "conditional writes (If-None-Match) cannot hold commits."
        ),
    ),
    (
        frozenset(
            {"EndpointConnectionError", "ConnectTimeoutError", "ConnectionClosedError", "ReadTimeoutError", "SSLError"}
            | {"ProxyConnectionError", "ResponseStreamingError", "ConnectionError", "IncompleteReadError"}
        ),
        (
            "the server does not answer ({code}). Check s3.endpoint_url and that the server runs and is reachable from "
            "this machine."
        ),
    ),
    (
        frozenset({"ConditionalRequestConflict", "OperationAborted", "409"}),
        "others keep writing the same key at the same time. Run the command again.",
    ),
    (
        frozenset({"SlowDown", "ServiceUnavailable", "InternalError", "503", "500", "502", "504", "RequestTimeout"}),
        "the server failed again and again ({code}). Wait a little and run the command again.",
    ),
)


def explain(code: str, detail: str, what: str, bucket: str) -> str:
    """One sentence that says what could not be done, why, and what to do.

    Args:
        code: S3 error code or name of a client library's error.
        detail: Its own words, used when the code is not known here.
        what: The beginning: `The store X cannot write 'KEY'`.
        bucket: Name of the bucket.
    """
    for codes, remedy in REMEDIES:
        if code in codes:
            return f"{what}: {remedy.format(code=code, bucket=bucket)}"
    return f"{what}: {detail} ({code}). Run `elder doctor` to see which part fails."
