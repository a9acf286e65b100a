package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	operatorv1 "github.com/hearth-compute/hearth/proto/hearth/operator/v1"
)

func (a *app) logsCommand() *cobra.Command {
	req := &operatorv1.LogsRequest{}
	var since string
	tail := int64(-1)
	cmd := &cobra.Command{
		Use:   "logs FUNCTION",
		Short: "Print what a function printed, on all instances",
		Long: `Print what a function printed, on all instances, in the order of time.

Instances keep what functions, extensions and the platform say in files of bounded
size, that of environments that ended too, until newer lines need the room. Each
line is printed with its time and its environment, and with the request it belongs
to where that is known. With -o json each line is an object on a line of its own.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Function = args[0]
			if tail >= 0 {
				req.Tail = &tail
			}
			var err error
			if req.Since, err = a.since(since); err != nil {
				return err
			}
			return a.logs(cmd.Context(), req)
		},
	}
	a.addControl(cmd)
	cmd.Flags().BoolVarP(&req.Follow, "follow", "f", false, "go on with what is printed from now on")
	cmd.Flags().StringVar(&req.Version, "version", "", "only lines of this version")
	cmd.Flags().StringVar(&req.Environment, "environment", "", "only lines of this execution environment")
	cmd.Flags().StringVar(&req.RequestId, "request-id", "", "only lines of this request")
	cmd.Flags().StringVar(&since, "since", "", "only lines from then on: a time as RFC 3339, or how long ago, for example 10m")
	cmd.Flags().Int64Var(&tail, "tail", -1, "only so many of the last lines; -1 means all")
	return cmd
}

// since reads a time or how long ago it was.
func (a *app) since(text string) (*timestamppb.Timestamp, error) {
	if text == "" {
		return nil, nil //nolint:nilnil // absent
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return timestamppb.New(a.env.Now().Add(-ago)), nil
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("--since %q: want a time such as 2026-11-23T12:00:00Z or a duration such as 10m", text))
	}
	return timestamppb.New(at), nil
}

// logs prints lines until there are no more or whoever reads them interrupts.
func (a *app) logs(ctx context.Context, req *operatorv1.LogsRequest) error {
	c, err := a.dial()
	if err != nil {
		return err
	}
	defer c.close()
	if req.GetFollow() { // an interrupt is how that ends
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		defer stop()
	}
	stream, err := c.Logs(ctx, req)
	if err != nil {
		return c.explain(err)
	}
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF), err != nil && req.GetFollow() && ctx.Err() != nil:
			return nil
		case err != nil:
			return c.explain(err)
		}
		switch err := errors.Join(a.printNotices(m.GetNotices()), a.printLines(m.GetLines())); {
		case errors.Is(err, syscall.EPIPE): // whoever read it has enough
			return nil
		case err != nil:
			return err
		}
	}
}

func (a *app) printNotices(notices []string) error {
	for _, n := range notices {
		if _, err := fmt.Fprintf(a.env.Stderr, "hearth logs: %s\n", printable(n)); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) printLines(lines []*operatorv1.LogLine) error {
	var b strings.Builder
	for _, l := range lines {
		if a.output == "json" {
			if err := appendLineJSON(&b, l); err != nil {
				return err
			}
			continue
		}
		text := strings.TrimRight(logText(l.GetText()), " ")
		_, _ = fmt.Fprintf(&b, "%s %s %s %s\n", l.GetTime().AsTime().Format("2006-01-02T15:04:05.000Z"), printable(l.GetEnvironment()),
			orDash(printable(l.GetRequestId())), text)
	}
	_, err := io.WriteString(a.env.Stdout, b.String())
	return err
}

// logText is a line without what could steer a terminal; tabs stay.
func logText(text []byte) string {
	parts := strings.Split(string(text), "\t")
	for i := range parts {
		parts[i] = printable(strings.ToValidUTF8(parts[i], string(utf8.RuneError)))
	}
	return strings.Join(parts, "\t")
}

// lineJSON is one line of what "hearth logs -o json" prints.
type lineJSON struct {
	Time        time.Time `json:"time"`
	Function    string    `json:"function"`
	Version     string    `json:"version"`
	Environment string    `json:"environment"`
	Instance    string    `json:"instance"`
	RequestID   string    `json:"request_id,omitempty"`
	Source      string    `json:"source"`
	Text        string    `json:"text"`
}

func appendLineJSON(w io.Writer, l *operatorv1.LogLine) error {
	lines := json.NewEncoder(w)
	lines.SetEscapeHTML(false)
	err := lines.Encode(lineJSON{
		Time: l.GetTime().AsTime(), Function: l.GetFunction(), Version: l.GetVersion(), Environment: l.GetEnvironment(), Instance: l.GetInstance(),
		RequestID: l.GetRequestId(), Source: strings.ToLower(strings.TrimPrefix(l.GetSource().String(), "LOG_SOURCE_")), Text: string(l.GetText()),
	})
	if err != nil {
		return fmt.Errorf("printing: %w: %w", err, errdefs.ErrInternal)
	}
	return nil
}
