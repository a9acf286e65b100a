package lambdaapi_test

import (
	"bytes"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
)

// location is where the code of "f" can be downloaded.
func (s *system) location(qualifier *string) string {
	s.t.Helper()
	out := must[*lambda.GetFunctionOutput](s.t)(s.GetFunction(s.t.Context(), &lambda.GetFunctionInput{FunctionName: aws.String("f"), Qualifier: qualifier}))
	if *out.Code.RepositoryType != "S3" || !strings.HasPrefix(*out.Code.Location, s.url+"/") {
		s.t.Fatalf("code %s at %s", *out.Code.RepositoryType, *out.Code.Location)
	}
	return strings.TrimPrefix(*out.Code.Location, s.url)
}

func TestTheLocationHasTheCode(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	s.publish("", nil)
	must[*lambda.UpdateFunctionCodeOutput](t)(s.UpdateFunctionCode(t.Context(),
		&lambda.UpdateFunctionCodeInput{FunctionName: aws.String("f"), ZipFile: zipOf(t, "two")}))
	for content, qualifier := range map[string]*string{"one": aws.String("1"), "two": nil} {
		w, body := s.send(http.MethodGet, s.location(qualifier), http.NoBody)
		if w.StatusCode != http.StatusOK || w.Header.Get("Content-Type") != "application/zip" || !bytes.Equal([]byte(body), zipOf(t, content)) {
			t.Errorf("%s: answered %d with %d bytes of %s", content, w.StatusCode, len(body), w.Header.Get("Content-Type"))
		}
	}
}

func TestOnlyALocationThatWasGivenHasCode(t *testing.T) {
	t.Parallel()
	s, other := newSystem(t, nil).withFunction(), newSystem(t, nil).withFunction()
	given, err := url.Parse(s.location(nil))
	if err != nil {
		t.Fatal(err)
	}
	change := func(name, value string) string {
		u, q := *given, given.Query()
		q.Set(name, value)
		u.RawQuery = q.Encode()
		return u.String()
	}
	for name, location := range map[string]string{
		"of another process":  other.location(nil),
		"a later expiry":      change("Expires", "99999999999"),
		"an expiry in words":  change("Expires", "never"),
		"an empty signature":  change("Signature", ""),
		"no signature at all": given.Path,
		"another archive":     "/code/" + strings.Repeat("0", 64) + "?" + given.RawQuery,
	} {
		if w, body := s.send(http.MethodGet, location, http.NoBody); w.StatusCode != http.StatusForbidden ||
			w.Header.Get("X-Amzn-Errortype") != "AccessDeniedException" {
			t.Errorf("%s: answered %d %s", name, w.StatusCode, body)
		}
	}
}
