package telemetry

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
)

func TestNothingIsRenderedThatNobodyWants(t *testing.T) {
	t.Parallel()
	for types, want := range map[string]category{"": 0, `"function"`: function, `"platform","extension"`: platform | extension} {
		h := New(Config{
			Dial: func(context.Context, string) (net.Conn, error) { return nil, errors.New("nobody") }, Log: slog.New(slog.DiscardHandler),
		})
		if !h.wants(platform) || !h.wants(function) || !h.wants(extension) {
			t.Error("somebody may still come")
		}
		if types != "" {
			body := `{"schemaVersion":"2025-01-29","types":[` + types + `],"destination":{"protocol":"HTTP","URI":"http://sandbox:81"}}`
			if err := h.Subscribe(t.Context(), "x", []byte(body)); err != nil {
				t.Fatal(err)
			}
		}
		h.Close()
		for _, c := range []category{platform, function, extension} {
			if h.wants(c) != (want&c != 0) || h.reports(slog.LevelError) != (want&platform != 0) {
				t.Errorf("%s: %s is wanted: %v", types, c.names(), h.wants(c))
			}
		}
	}
}
