package lambdaapi

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/uuid"
)

// locationValid is how long a Location may be used, as long as AWS's.
const locationValid = 10 * time.Minute

// locationPath begins the path of a Location.
const locationPath = "/code/"

// locations makes and checks URLs to download archives from. They are signed
// with a key of this process: nobody else can make one, and none outlives it.
type locations struct{ key []byte }

func newLocations() locations { return locations{key: []byte(rand.Text())} }

func (l locations) sign(sha, expires string) string {
	m := hmac.New(sha256.New, l.key)
	_, _ = m.Write([]byte(locationPath + sha + "\n" + expires)) // does not fail
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// of is the Location of an archive at origin.
func (l locations) of(origin, sha string, now time.Time) string {
	expires := strconv.FormatInt(now.Add(locationValid).Unix(), 10)
	return fmt.Sprintf("%s%s%s?Expires=%s&Signature=%s", origin, locationPath, sha, expires, l.sign(sha, expires))
}

// valid tells whether a request came with a Location of this process, now.
func (l locations) valid(r *http.Request, now time.Time) bool {
	q := r.URL.Query()
	sha, expires := r.PathValue("sha"), q.Get("Expires")
	if !hmac.Equal([]byte(q.Get("Signature")), []byte(l.sign(sha, expires))) {
		return false
	}
	at, err := strconv.ParseInt(expires, 10, 64)
	return err == nil && now.Before(time.Unix(at, 0))
}

// originKey is where a request's context has the origin it was sent to.
type originKey struct{}

// located lets an operation know how its caller reaches this server.
func located(op operation) operation {
	next := op.handle
	op.handle = func(w http.ResponseWriter, r *http.Request, requestID string) error {
		scheme := "http://"
		if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" { // the latter of a proxy in front
			scheme = "https://"
		}
		return next(w, r.WithContext(context.WithValue(r.Context(), originKey{}, scheme+r.Host)), requestID)
	}
	return op
}

// location is where the caller of ctx can download an archive, nil if it did
// not come by HTTP.
func (s *Server) location(ctx context.Context, sha string) *string {
	origin, ok := ctx.Value(originKey{}).(string)
	if !ok {
		return nil
	}
	return new(s.locations.of(origin, sha, time.Now()))
}

// download answers a Location.
func (s *Server) download(w http.ResponseWriter, r *http.Request) {
	requestID := uuid.NewString()
	w.Header().Set("X-Amzn-Requestid", requestID)
	if !s.locations.valid(r, time.Now()) {
		s.render(w, r, requestID, &exception{
			name: "AccessDeniedException", status: http.StatusForbidden,
			message: "The signature of the location is wrong or has expired. Ask GetFunction for a new one.",
		})
		return
	}
	archive, err := s.cfg.Artifacts.Open(r.Context(), r.PathValue("sha"))
	if err != nil {
		if errdefs.IsNotFound(err) {
			err = notFound("The code is not there any more. Ask GetFunction for a new location.")
		}
		s.render(w, r, requestID, err)
		return
	}
	defer func() { _ = archive.Close() }() // it was read, or is given up
	w.Header().Set("Content-Type", "application/zip")
	if _, err := io.CopyBuffer(pacedWriter{w}, archive, make([]byte, 64<<10)); err != nil {
		panic(http.ErrAbortHandler) // the client must not take a part for the whole
	}
}

// pacedWriter gives each piece of an answer its time.
type pacedWriter struct{ w http.ResponseWriter }

// Write implements io.Writer.
func (p pacedWriter) Write(b []byte) (int, error) {
	if d, ok := p.w.(interface{ SetWriteDeadline(t time.Time) error }); ok {
		_ = d.SetWriteDeadline(time.Now().Add(answerTime))
	}
	return p.w.Write(b)
}
