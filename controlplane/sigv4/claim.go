package sigv4

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// claim is what a request says about its signature.
type claim struct {
	algorithm string
	// credential is ID/DAY/REGION/SERVICE/aws4_request, which the next ones are.
	credential, accessKey, day string
	region, service, end       string
	// headers are the names of what is signed, in lower case, separated by ";".
	headers   string
	signature string
	token     string
	// date is when it was signed.
	date string
	// presigned says that all of this was in the query; expires is for how many
	// seconds, empty if it does not say.
	presigned bool
	expires   string
}

// read takes the claim out of a request: of its headers, or of its query.
func read(r *http.Request) (claim, error) {
	if auth := r.Header.Get("Authorization"); auth != "" {
		if !strings.HasPrefix(auth, "AWS4-") {
			return claim{}, missing()
		}
		return readHeader(auth, r.Header)
	}
	if strings.Contains(r.URL.RawQuery, "X-Amz-Algorithm") || strings.Contains(r.URL.RawQuery, "X-Amz-Signature") {
		return readQuery(r.URL.Query())
	}
	return claim{}, missing()
}

func missing() error {
	return &Error{"MissingAuthenticationTokenException", "Missing Authentication Token"}
}

// readHeader reads "AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…".
func readHeader(auth string, h http.Header) (c claim, err error) {
	c.token, c.date = h.Get("X-Amz-Security-Token"), h.Get("X-Amz-Date")
	if c.date == "" {
		c.date = fromHTTPDate(h.Get("Date"))
	}
	var rest string
	c.algorithm, rest, _ = strings.Cut(auth, " ")
	for part := range strings.SplitSeq(rest, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok {
			return c, incomplete("Invalid key=value pair (missing equal-sign) in Authorization header (hashed with SHA-256 and encoded with "+
				"Base64): '%s'.", digestOf(part))
		}
		switch name {
		case "Credential":
			c.credential = value
		case "SignedHeaders":
			c.headers = value
		case "Signature":
			c.signature = value
		}
	}
	var lacks strings.Builder
	for _, p := range []struct{ name, value string }{{"Credential", c.credential}, {"Signature", c.signature}, {"SignedHeaders", c.headers}} {
		if p.value == "" {
			lacks.WriteString("Authorization header requires '" + p.name + "' parameter. ")
		}
	}
	if c.date == "" {
		lacks.WriteString("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. ")
	}
	if lacks.Len() > 0 {
		return c, incomplete("%s(Hashed with SHA-256 and encoded with Base64) Authorization=%s", lacks.String(), digestOf(auth))
	}
	return c, nil
}

// digestOf stands for what may have a secret in it.
func digestOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// fromHTTPDate returns a Date header as X-Amz-Date has it, or as it is.
func fromHTTPDate(date string) string {
	if t, err := http.ParseTime(date); err == nil {
		return t.UTC().Format(timeFormat)
	}
	return date
}

func readQuery(q url.Values) (claim, error) {
	c := claim{
		algorithm: q.Get("X-Amz-Algorithm"), credential: q.Get("X-Amz-Credential"), headers: q.Get("X-Amz-SignedHeaders"),
		signature: q.Get("X-Amz-Signature"), token: q.Get("X-Amz-Security-Token"), date: q.Get("X-Amz-Date"),
		presigned: true, expires: q.Get("X-Amz-Expires"),
	}
	var lacks strings.Builder
	for _, name := range []string{"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature", "X-Amz-SignedHeaders", "X-Amz-Date"} {
		if q.Get(name) == "" {
			lacks.WriteString("AWS query-string parameters must include '" + name + "'. ")
		}
	}
	if lacks.Len() > 0 {
		return c, incomplete("%sRe-examine the query-string parameters.", lacks.String())
	}
	return c, nil
}

// checkTime wants a time of signing that is now, give or take, or within what a
// presigned URL says.
func (c *claim) checkTime(now time.Time) error {
	at, err := time.Parse(timeFormat, c.date)
	if err != nil {
		return incomplete("Date must be in ISO-8601 'basic format'. Got '%s'. See http://en.wikipedia.org/wiki/ISO_8601", c.date)
	}
	valid, said := skew, "5 min."
	if c.expires != "" {
		seconds, err := strconv.ParseUint(c.expires, 10, 32)
		if valid = time.Duration(seconds) * time.Second; err != nil || valid < time.Second || valid > maxExpires {
			return incomplete("X-Amz-Expires must be a number of seconds from 1 to %d.", int(maxExpires.Seconds()))
		}
		said = c.expires + " sec."
	}
	now = now.UTC()
	switch stamp := now.Format(timeFormat); {
	case at.Before(now.Add(-valid)):
		return invalid("Signature expired: %s is now earlier than %s (%s - %s)", c.date, now.Add(-valid).Format(timeFormat), stamp, said)
	case at.After(now.Add(skew)):
		return invalid("Signature not yet current: %s is still later than %s (%s + 5 min.)", c.date, now.Add(skew).Format(timeFormat), stamp)
	}
	return nil
}

// checkForm takes the credential apart and wants what decides what a request
// does to be signed.
func (c *claim) checkForm(r *http.Request) error {
	signed := strings.Split(c.headers, ";")
	if !slices.Contains(signed, "host") {
		return invalid("'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.")
	}
	for _, name := range []string{"X-Amz-Client-Context", "X-Amz-Invocation-Type", "X-Amz-Log-Type"} {
		if _, there := r.Header[name]; there && !slices.Contains(signed, strings.ToLower(name)) {
			return invalid("'%s' must be a 'SignedHeader' in the AWS Authorization.", name)
		}
	}
	if c.algorithm != algorithm {
		return incomplete("Unsupported AWS 'algorithm': '%s'", c.algorithm)
	}
	part := strings.Split(c.credential, "/")
	if len(part) != 5 {
		return incomplete("Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got '%s'", c.credential)
	}
	c.accessKey, c.day, c.region, c.service, c.end = part[0], part[1], part[2], part[3], part[4]
	return nil
}

// checkScope wants the request to be signed for this service, and for its day.
func (c *claim) checkScope(region, service string) error {
	var wrong []string
	if c.region != region {
		wrong = append(wrong, "Credential should be scoped to a valid region, not '"+c.region+"'.")
	}
	if c.service != service {
		wrong = append(wrong, "Credential should be scoped to correct service: '"+service+"'.")
	}
	if c.end != terminator {
		wrong = append(wrong, "Credential should be scoped with a valid terminator: '"+terminator+"', not '"+c.end+"'.")
	}
	if day, _, _ := strings.Cut(c.date, "T"); c.day != day {
		wrong = append(wrong, "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '"+
			c.day+"' != '"+day+"', from '"+c.date+"'.")
	}
	if len(wrong) > 0 {
		return invalid("%s", strings.Join(wrong, " "))
	}
	return nil
}
