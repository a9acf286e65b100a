package telemetry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

const (
	// dialLimit is how long a listener may take to accept.
	dialLimit = time.Second
	// idleLimit is how long a connection without a batch is kept.
	idleLimit = time.Minute
	// maxReply is how much of an answer is read, header and body each.
	maxReply = 16 << 10
)

var (
	errNoAnswer = errors.New("no answer within 3 s")
	errNoAccept = errors.New("nobody accepted the connection within a second")
)

// destination is where batches go. Send and close are for the sender alone.
type destination interface {
	// frame appends an event to the body of a batch, end what comes last.
	frame(body, event []byte) []byte
	end(body []byte) []byte
	send(ctx context.Context, body []byte) error
	close()
}

// dial connects to a port on loopback inside the environment.
func (h *Hub) dial(ctx context.Context, port string) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialLimit, errNoAccept)
	defer cancel()
	return h.cfg.Dial(ctx, net.JoinHostPort("127.0.0.1", port))
}

// httpDestination posts each batch as an array.
type httpDestination struct {
	url    string
	client http.Client
}

func newHTTP(h *Hub, to *url.URL, port string) *httpDestination {
	return &httpDestination{url: to.String(), client: http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return h.dial(ctx, port)
			},
			MaxConnsPerHost: 1, IdleConnTimeout: idleLimit, DisableCompression: true, MaxResponseHeaderBytes: maxReply,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (*httpDestination) frame(body, event []byte) []byte {
	separator := byte(',')
	if len(body) == 0 {
		separator = '['
	}
	return append(append(body, separator), event...)
}

func (*httpDestination) end(body []byte) []byte { return append(body, ']') }

func (d *httpDestination) send(ctx context.Context, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Sequence-Id", base64.StdEncoding.EncodeToString(sum[:]))
	resp, err := d.client.Do(req)
	if err != nil {
		return err
	}
	_, _ = io.CopyN(io.Discard, resp.Body, maxReply)
	_ = resp.Body.Close()
	if resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("http request failed with status %s", resp.Status)
	}
	return nil
}

func (d *httpDestination) close() { d.client.CloseIdleConnections() }

// tcpDestination writes each event as a line.
type tcpDestination struct {
	dial func(ctx context.Context) (net.Conn, error)
	conn net.Conn // nil after a failure
}

// newTCP connects at once, as AWS does: who subscribes has to listen already.
func newTCP(ctx context.Context, h *Hub, port string) (*tcpDestination, error) {
	d := &tcpDestination{dial: func(ctx context.Context) (net.Conn, error) { return h.dial(ctx, port) }}
	var err error
	d.conn, err = d.dial(ctx)
	return d, err
}

func (*tcpDestination) frame(body, event []byte) []byte {
	return append(append(body, event...), '\n')
}

func (*tcpDestination) end(body []byte) []byte { return body }

func (d *tcpDestination) send(ctx context.Context, body []byte) (err error) {
	if d.conn == nil {
		if d.conn, err = d.dial(ctx); err != nil {
			d.conn = nil
			return err
		}
	}
	conn := d.conn
	_ = conn.SetWriteDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { _ = conn.SetWriteDeadline(time.Unix(1, 0)) })
	_, err = conn.Write(body)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		d.close()
	}
	return err
}

func (d *tcpDestination) close() {
	if d.conn != nil {
		_ = d.conn.Close()
		d.conn = nil
	}
}
