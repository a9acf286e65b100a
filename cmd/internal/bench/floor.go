package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// floor measures the same POSTs to a server in this process that only sends the
// body back: what HTTP itself costs here, to compare the other paths with.
func floor(ctx context.Context, w io.Writer, p params) error {
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body) // a caller that left is no concern here
	})}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: maxConcurrency}, Timeout: 30 * time.Second}
	url := "http://" + lis.Addr().String()
	err = measureAll(ctx, w, p, func(ctx context.Context) error { return post(ctx, client, url) })
	err = errors.Join(err, srv.Close())
	if s := <-served; !errors.Is(s, http.ErrServerClosed) {
		err = errors.Join(err, s)
	}
	return err
}
