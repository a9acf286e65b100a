package sigv4

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/containerd/errdefs"
)

const (
	exampleID     = "AKIDEXAMPLE"
	exampleSecret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
	file          = "# keys\n[ci]\naws_access_key_id = " + exampleID + "\naws_secret_access_key=" + exampleSecret + "\nregion = us-east-1\n" +
		"[s3 example]\naws_access_key_id=AKIAIOSFODNN7EXAMPLE\naws_secret_access_key=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n" +
		"[session]\naws_access_key_id=ASIAEXAMPLE\naws_secret_access_key=" + exampleSecret + "\naws_session_token = tok/en+==\n"
)

func keysOf(t testing.TB, content string) *Keys {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := OpenKeys(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// verify runs both halves on a request and returns its body.
func (v *Verifier) verify(r *http.Request, now time.Time) (string, error) {
	q, err := v.Begin(r, now)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return "", err
	}
	body, err = q.Finish(body)
	return string(body), err
}

// received is a request as a server sees it.
func received(t testing.TB, text string) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestThePublishedExamplesVerify has AWS's test suite of Signature Version 4, in
// as far as net/http reads its requests and the API its paths.
func TestThePublishedExamplesVerify(t *testing.T) {
	t.Parallel()
	v, at := New(keysOf(t, file), "us-east-1", "service"), time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC)
	const unreserved = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	const form = "Content-Type: application/x-www-form-urlencoded\nContent-Length: 13\n\nParam1=value1"
	for _, c := range []struct{ name, first, rest, headers, signature string }{
		{"get-header-key-duplicate", "GET /", "My-Header1:value2\nMy-Header1:value2\nMy-Header1:value1\n", "host;my-header1;x-amz-date", "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea"},
		{"get-header-value-order", "GET /", "My-Header1:value4\nMy-Header1:value1\nMy-Header1:value3\nMy-Header1:value2\n", "host;my-header1;x-amz-date", "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01"},
		{"get-header-value-trim", "GET /", "My-Header1: value1\nMy-Header2: \"a   b   c\"\n", "host;my-header1;my-header2;x-amz-date", "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"},
		{"get-unreserved", "GET /" + unreserved, "", "host;x-amz-date", "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"},
		{"get-utf8", "GET /ሴ", "", "host;x-amz-date", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"},
		{"get-vanilla", "GET /", "", "host;x-amz-date", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
		{"get-vanilla-empty-query-key", "GET /?Param1=value1", "", "host;x-amz-date", "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb"},
		{"get-vanilla-query-order-key", "GET /?Param1=value2&Param1=Value1", "", "host;x-amz-date", "eedbc4e291e521cf13422ffca22be7d2eb8146eecf653089df300a15b2382bd1"},
		{"get-vanilla-query-order-key-case", "GET /?Param2=value2&Param1=value1", "", "host;x-amz-date", "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"},
		{"get-vanilla-query-order-value", "GET /?Param1=value2&Param1=value1", "", "host;x-amz-date", "5772eed61e12b33fae39ee5e7012498b51d56abc0abb7c60486157bd471c4694"},
		{"get-vanilla-query-unreserved", "GET /?" + unreserved + "=" + unreserved, "", "host;x-amz-date", "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197"},
		{"get-vanilla-utf8-query", "GET /?ሴ=bar", "", "host;x-amz-date", "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"},
		{"post-vanilla", "POST /", "", "host;x-amz-date", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"},
		{"post-header-value-case", "POST /", "My-Header1:VALUE1\n", "host;my-header1;x-amz-date", "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d"},
		{"post-vanilla-query", "POST /?Param1=value1", "", "host;x-amz-date", "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11"},
		{"post-x-www-form-urlencoded", "POST /", form, "content-type;host;x-amz-date", "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			head := c.first + " HTTP/1.1\nHost:example.amazonaws.com\nX-Amz-Date:20150830T123600Z\nAuthorization: AWS4-HMAC-SHA256 Credential=" +
				exampleID + "/20150830/us-east-1/service/aws4_request, SignedHeaders=" + c.headers + ", Signature=" + c.signature + "\n"
			if _, err := v.verify(received(t, head+c.rest+"\n"), at); err != nil {
				t.Error(err)
			}
			other := strings.Replace(head, c.signature, "0"+c.signature[1:], 1)
			if c.signature[0] == '0' {
				other = strings.Replace(head, c.signature, "1"+c.signature[1:], 1)
			}
			_, err := v.verify(received(t, other+c.rest+"\n"), at)
			wants(t, err, "InvalidSignatureException", mismatch().(*Error).Message) //nolint:errorlint,forcetypeassert // ours
		})
	}
}

func wants(t *testing.T, err error, code, message string) {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Code != code || e.Message != message || !errdefs.IsUnauthorized(err) {
		t.Errorf("error\n got %v\nwant %s: %s", err, code, message)
	}
}

// published is AWS's example of a body in signed chunks.
func published() (head string, body []byte) {
	const seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
	head = "PUT /examplebucket/chunkObject.txt HTTP/1.1\r\nHost: s3.amazonaws.com\r\nx-amz-date: 20130524T000000Z\r\nx-amz-storage-class: REDUCED_REDUNDANCY\r\n" +
		"Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request," +
		"SignedHeaders=content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class,Signature=" + seed + "\r\n" +
		"x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD\r\nContent-Encoding: aws-chunked\r\nx-amz-decoded-content-length: 66560\r\nContent-Length: 66824\r\n\r\n"
	body = append(body, "10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n"+strings.Repeat("a", 65536)+"\r\n"...)
	body = append(body, "400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n"+strings.Repeat("a", 1024)+"\r\n"...)
	return head, append(body, "0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9\r\n\r\n"...)
}

func TestSignedChunksAreVerifiedAndTakenApart(t *testing.T) {
	t.Parallel()
	v, at := New(keysOf(t, file), "us-east-1", "s3"), time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)
	head, body := published()
	finish := func(body []byte) (string, error) {
		q, err := v.Begin(received(t, head+"x"), at)
		if err != nil {
			t.Fatal(err)
		}
		got, err := q.Finish(body)
		return string(got), err
	}
	if got, err := finish([]byte(string(body))); err != nil || got != strings.Repeat("a", 66560) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	text := string(body)
	for name, bad := range map[string]string{
		"a changed byte":       text[:100] + "b" + text[101:],
		"a chunk taken out":    text[strings.Index(text, "400;"):],
		"a signature replaced": strings.Replace(text, "0055627c", "1055627c", 1),
		"no end":               text[:strings.Index(text, "\r\n0;")+2],
		"cut within a chunk":   text[:1000],
		"more after the end":   text + "0;chunk-signature=\r\n\r\n",
		"a vast size":          "ffffffffffffffff" + text[5:],
		"a negative size":      "-1" + text[5:],
		"nothing":              "",
		"no chunks":            "hello",
		"a long header":        strings.Repeat("0", 300) + text,
	} {
		got, err := finish([]byte(bad))
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != "InvalidSignatureException" && e.Code != "IncompleteSignatureException" || got != "" {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

// signed serves what the SDK's signer signed and returns what the verifier says.
func signed(t *testing.T, v *Verifier, r *http.Request, sign func(*http.Request)) (body string, err error) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err = v.verify(r, time.Now())
	}))
	defer server.Close()
	target, perr := url.Parse(server.URL)
	if perr != nil {
		t.Fatal(perr)
	}
	r.URL.Scheme, r.URL.Host, r.Host = target.Scheme, target.Host, ""
	sign(r)
	resp, doErr := server.Client().Do(r)
	if doErr != nil {
		t.Fatal(doErr)
	}
	_ = resp.Body.Close()
	return body, err
}

func request(t *testing.T, method, target, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://host"+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// signs signs as the SDK does.
func signs(t *testing.T, id, token, service, region, hash string, at time.Time) func(*http.Request) {
	return func(r *http.Request) {
		t.Helper()
		credentials := aws.Credentials{AccessKeyID: id, SecretAccessKey: exampleSecret, SessionToken: token}
		if err := v4.NewSigner().SignHTTP(t.Context(), credentials, r, hash, service, region, at); err != nil {
			t.Fatal(err)
		}
	}
}

func hexHash(body string) string {
	sum := sha256.Sum256([]byte(body))
	return hex.EncodeToString(sum[:])
}

func TestWhatTheSDKSignsVerifies(t *testing.T) {
	t.Parallel()
	v := New(keysOf(t, file), "us-east-1", "lambda")
	for _, target := range []string{
		"/2015-03-31/functions", "/2015-03-31/functions/", "/a%20b/c%2Fd", "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aus-east-1%3A1%3Afunction%3Af",
		"/2015-03-31/functions/f/invocations?Qualifier=%24LATEST.PUBLISHED", "/x?b=2&a=1&a=%20&c&d=&e=%2B", "/x?a-b=1&a=2&a0=3", "/~a!*'()",
	} {
		for _, body := range []string{"", `{"a": "é"}`, strings.Repeat("x", 100_000)} {
			r := request(t, http.MethodPost, target, body)
			r.Header.Set("X-Amz-Invocation-Type", "Event")
			r.Header["X-Two"] = []string{" a   b ", "c"}
			got, err := signed(t, v, r, signs(t, exampleID, "", "lambda", "us-east-1", hexHash(body), time.Now()))
			if err != nil || got != body {
				t.Errorf("%s with %d bytes: %v", target, len(body), err)
			}
		}
	}
}

func TestTheHashOfTheBodyIsChecked(t *testing.T) {
	t.Parallel()
	v, wrong := New(keysOf(t, file), "us-east-1", "lambda"), mismatch().Error()
	for name, c := range map[string]struct{ header, hash, want string }{
		"said and right":         {hexHash("body"), hexHash("body"), ""},
		"said and wrong":         {hexHash("other"), hexHash("other"), wrong},
		"said otherwise":         {hexHash("body"), hexHash("other"), wrong},
		"not said and wrong":     {"", hexHash("other"), wrong},
		"unsigned":               {unsignedPayload, unsignedPayload, ""},
		"unsigned, but not said": {"", unsignedPayload, wrong},
		"said to be unsigned":    {unsignedPayload, hexHash("body"), wrong},
		"signed with a trailer": {
			signedChunks + "-TRAILER", signedChunks + "-TRAILER",
			`IncompleteSignatureException: x-amz-content-sha256 "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" is not supported.`,
		},
	} {
		r := request(t, http.MethodPost, "/x", "body")
		if c.header != "" {
			r.Header.Set("X-Amz-Content-Sha256", c.header)
		}
		_, err := signed(t, v, r, signs(t, exampleID, "", "lambda", "us-east-1", c.hash, time.Now()))
		if got := text(err); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestStrangersAreRefusedInAWSsWords(t *testing.T) {
	t.Parallel()
	v, now := New(keysOf(t, file), "us-east-1", "lambda"), time.Now().UTC()
	stamp, day := now.Format(timeFormat), now.Format("20060102")
	sign := func(id, token, service, region string, at time.Time) func(*http.Request) {
		return signs(t, id, token, service, region, emptyHash, at)
	}
	header := func(value string) func(*http.Request) {
		return func(r *http.Request) {
			r.Header.Set("Authorization", value)
			r.Header.Set("X-Amz-Date", stamp)
		}
	}
	const unknown = "UnrecognizedClientException: The security token included in the request is invalid."
	const incomplete, invalid = "IncompleteSignatureException: ", "InvalidSignatureException: "
	scope := exampleID + "/" + day + "/us-east-1/lambda/aws4_request"
	for name, c := range map[string]struct {
		sign func(*http.Request)
		want string
	}{
		"nothing":             {func(*http.Request) {}, "MissingAuthenticationTokenException: Missing Authentication Token"},
		"a bearer":            {header("Bearer x"), "MissingAuthenticationTokenException: Missing Authentication Token"},
		"an unknown key":      {sign("AKIDOTHER", "", "lambda", "us-east-1", now), unknown},
		"a token too many":    {sign(exampleID, "token", "lambda", "us-east-1", now), unknown},
		"a missing token":     {sign("ASIAEXAMPLE", "", "lambda", "us-east-1", now), unknown},
		"a session":           {sign("ASIAEXAMPLE", "tok/en+==", "lambda", "us-east-1", now), ""},
		"a secret of another": {sign("AKIAIOSFODNN7EXAMPLE", "", "lambda", "us-east-1", now), mismatch().Error()},
		"another service":     {sign(exampleID, "", "s3", "us-east-1", now), invalid + "Credential should be scoped to correct service: 'lambda'."},
		"another region":      {sign(exampleID, "", "lambda", "eu-west-1", now), invalid + "Credential should be scoped to a valid region, not 'eu-west-1'."},
		"four minutes ago":    {sign(exampleID, "", "lambda", "us-east-1", now.Add(-4*time.Minute)), ""},
		"in four minutes":     {sign(exampleID, "", "lambda", "us-east-1", now.Add(4*time.Minute)), ""},
		"another algorithm": {
			header("AWS4-HMAC-SHA512 Credential=" + scope + ", SignedHeaders=host, Signature=00"), incomplete + "Unsupported AWS 'algorithm': 'AWS4-HMAC-SHA512'",
		},
		"no host": {
			header("AWS4-HMAC-SHA256 Credential=" + scope + ", SignedHeaders=x-amz-date, Signature=00"),
			invalid + "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.",
		},
		"a short credential": {
			header("AWS4-HMAC-SHA256 Credential=a/b/c/d, SignedHeaders=host, Signature=00"),
			incomplete + "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got 'a/b/c/d'",
		},
		"everything wrong": {
			header("AWS4-HMAC-SHA256 Credential=a/b/c/d/e, SignedHeaders=host, Signature=00"),
			invalid + "Credential should be scoped to a valid region, not 'c'. Credential should be scoped to correct service: 'lambda'. " +
				"Credential should be scoped with a valid terminator: 'aws4_request', not 'e'. " +
				"Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: 'b' != '" + day + "', from '" + stamp + "'.",
		},
		"half of it": {
			header("AWS4-HMAC-SHA256 Signature=secret"),
			incomplete + "Authorization header requires 'Credential' parameter. Authorization header requires 'SignedHeaders' parameter. " +
				"(Hashed with SHA-256 and encoded with Base64) Authorization=" + digestOf("AWS4-HMAC-SHA256 Signature=secret"),
		},
		"no equal sign": {
			header("AWS4-HMAC-SHA256 secret"), incomplete + "Invalid key=value pair (missing equal-sign) in Authorization header (hashed with SHA-256 " +
				"and encoded with Base64): '" + digestOf("secret") + "'.",
		},
		"a strange date": {
			func(r *http.Request) {
				header("AWS4-HMAC-SHA256 Credential=" + scope + ", SignedHeaders=host, Signature=00")(r)
				r.Header.Set("X-Amz-Date", "201")
			}, incomplete + "Date must be in ISO-8601 'basic format'. Got '201'. See http://en.wikipedia.org/wiki/ISO_8601",
		},
		"a header that was added": {
			func(r *http.Request) {
				sign(exampleID, "", "lambda", "us-east-1", now)(r)
				r.Header.Set("X-Amz-Invocation-Type", "DryRun")
			}, invalid + "'X-Amz-Invocation-Type' must be a 'SignedHeader' in the AWS Authorization.",
		},
		"another path": {
			func(r *http.Request) {
				sign(exampleID, "", "lambda", "us-east-1", now)(r)
				r.URL.Path = "/y"
			}, mismatch().Error(),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := signed(t, v, request(t, http.MethodGet, "/x", ""), c.sign); text(err) != c.want {
				t.Errorf("got %q\nwant %q", text(err), c.want)
			}
		})
	}
}

func TestClocksMayDifferByFiveMinutes(t *testing.T) {
	t.Parallel()
	c := claim{date: "20130301T000000Z"}
	at := time.Date(2013, 3, 1, 0, 0, 0, 0, time.UTC)
	for _, ok := range []time.Duration{-skew, 0, skew} {
		if err := c.checkTime(at.Add(ok)); err != nil {
			t.Error(err)
		}
	}
	wants(t, c.checkTime(at.Add(skew+time.Second)), "InvalidSignatureException",
		"Signature expired: 20130301T000000Z is now earlier than 20130301T000001Z (20130301T000501Z - 5 min.)")
	wants(t, c.checkTime(at.Add(-skew-time.Second)), "InvalidSignatureException",
		"Signature not yet current: 20130301T000000Z is still later than 20130228T235959Z (20130228T235459Z + 5 min.)")
	c.expires = "3600"
	if err := c.checkTime(at.Add(time.Hour)); err != nil {
		t.Error(err)
	}
	wants(t, c.checkTime(at.Add(time.Hour+time.Second)), "InvalidSignatureException",
		"Signature expired: 20130301T000000Z is now earlier than 20130301T000001Z (20130301T010001Z - 3600 sec.)")
	for _, bad := range []string{"0", "-1", "604801", "x", "4294967296"} {
		c.expires = bad
		wants(t, c.checkTime(at), "IncompleteSignatureException", "X-Amz-Expires must be a number of seconds from 1 to 604800.")
	}
}

// presigned signs the URL as the SDK does.
func presigned(t *testing.T, hash string, at time.Time, edit func(url.Values)) func(*http.Request) {
	return func(r *http.Request) {
		t.Helper()
		credentials := aws.Credentials{AccessKeyID: "ASIAEXAMPLE", SecretAccessKey: exampleSecret, SessionToken: "tok/en+=="}
		uri, headers, err := v4.NewSigner().PresignHTTP(context.WithoutCancel(t.Context()), credentials, r, hash, "lambda", "us-east-1", at)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		if edit != nil {
			q := u.Query()
			edit(q)
			u.RawQuery = q.Encode()
		}
		r.URL = u
		for name, values := range headers {
			if name != "Host" && name != "Content-Length" {
				r.Header[name] = values
			}
		}
	}
}

func TestPresignedURLsVerify(t *testing.T) {
	t.Parallel()
	v, now := New(keysOf(t, file), "us-east-1", "lambda"), time.Now()
	const target = "/2015-03-31/functions/f%3A1/invocations?Qualifier=1&b=%20&a=%2F&X-Amz-Expires=60"
	for name, c := range map[string]struct {
		sign func(*http.Request)
		want string
	}{
		"right":         {presigned(t, hexHash("body"), now, nil), ""},
		"another body":  {presigned(t, emptyHash, now, nil), mismatch().Error()},
		"another query": {presigned(t, hexHash("body"), now, func(q url.Values) { q.Set("Qualifier", "2") }), mismatch().Error()},
		"a longer life": {presigned(t, hexHash("body"), now, func(q url.Values) { q.Set("X-Amz-Expires", "6000") }), mismatch().Error()},
		"no token":      {presigned(t, hexHash("body"), now, func(q url.Values) { q.Del("X-Amz-Security-Token") }), "UnrecognizedClientException: The security token included in the request is invalid."},
		"no signature": {
			presigned(t, hexHash("body"), now, func(q url.Values) { q.Del("X-Amz-Signature") }),
			"IncompleteSignatureException: AWS query-string parameters must include 'X-Amz-Signature'. Re-examine the query-string parameters.",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := signed(t, v, request(t, http.MethodPost, target, "body"), c.sign); text(err) != c.want {
				t.Errorf("got %q\nwant %q", text(err), c.want)
			}
		})
	}
	_, err := signed(t, v, request(t, http.MethodPost, target, "body"), presigned(t, hexHash("body"), now.Add(-2*time.Minute), nil))
	if e, ok := errors.AsType[*Error](err); !ok || !strings.HasPrefix(e.Message, "Signature expired: ") {
		t.Errorf("an expired URL: %v", err)
	}
}

// invocation is a request that verifies at the time it returns.
func invocation(t testing.TB, id string) (*http.Request, []byte, time.Time) {
	t.Helper()
	body, at := []byte(`{"key":"value"}`), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := httptest.NewRequest(http.MethodPost, "/2015-03-31/functions/f/invocations?Qualifier=1", nil)
	r.Header.Set("Content-Type", "application/json")
	credentials := aws.Credentials{AccessKeyID: id, SecretAccessKey: exampleSecret}
	if err := v4.NewSigner().SignHTTP(t.Context(), credentials, r, hexHash(string(body)), "lambda", "us-east-1", at); err != nil {
		t.Fatal(err)
	}
	return r, body, at
}

func BenchmarkVerify(b *testing.B) {
	v := New(keysOf(b, file), "us-east-1", "lambda")
	r, body, at := invocation(b, exampleID)
	b.ReportAllocs()
	for b.Loop() {
		q, err := v.Begin(r, at)
		if err == nil {
			_, err = q.Finish(body)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzVerify: nothing verifies but what was signed, and nothing panics.
func FuzzVerify(f *testing.F) {
	v := New(keysOf(f, file), "us-east-1", "lambda")
	r, body, at := invocation(f, exampleID)
	signature := r.Header.Get("Authorization")
	f.Add(r.Method, r.RequestURI, signature, r.Header.Get("X-Amz-Date"), "", body)
	f.Add("GET", "/?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a/b/c/d/e&X-Amz-SignedHeaders=host;host&X-Amz-Signature=%00&X-Amz-Date=x", "", "", signedChunks, []byte("1;chunk-signature=\r\na\r\n"))
	f.Add("POST", "/", "AWS4-HMAC-SHA256 Credential=,SignedHeaders=;,Signature==", "20260102T030405Z", unsignedPayload, []byte{})
	f.Fuzz(func(t *testing.T, method, uri, auth, date, hash string, content []byte) {
		u, err := url.ParseRequestURI(uri)
		if err != nil {
			return
		}
		q := &http.Request{Method: method, URL: u, RequestURI: uri, Host: r.Host, Header: http.Header{
			"Authorization": {auth}, "X-Amz-Date": {date}, "X-Amz-Content-Sha256": {hash}, "Content-Type": {"application/json"},
		}, ContentLength: int64(len(content))}
		given := string(content)
		b, err := v.Begin(q, at)
		if err == nil {
			_, err = b.Finish(content)
		}
		switch _, ours := errors.AsType[*Error](err); {
		case err != nil && !ours:
			t.Errorf("error %v", err)
		case err == nil && (method != r.Method || given != string(body) || date != r.Header.Get("X-Amz-Date") || !strings.Contains(auth, signature[len(signature)-64:])):
			t.Errorf("verified %s %q %q %q %q", method, uri, auth, date, given)
		}
	})
}
