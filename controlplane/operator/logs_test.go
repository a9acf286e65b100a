package operator_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hearth-compute/hearth/controlplane"
	operatorv1 "github.com/hearth-compute/hearth/proto/hearth/operator/v1"
)

// printed are the logs of instances in memory.
type printed struct {
	mu   sync.Mutex
	logs map[controlplane.InstanceID]*instanceLog
}

// instanceLog is the log of one.
type instanceLog struct {
	kept []controlplane.LogBatch
	// live are batches for those who follow; closing it cuts the connection.
	live chan controlplane.LogBatch
	err  error
	// asked are the queries.
	asked []controlplane.LogQuery
}

func (p *printed) set(id controlplane.InstanceID, l *instanceLog) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.logs == nil {
		p.logs = map[controlplane.InstanceID]*instanceLog{}
	}
	p.logs[id] = l
}

func (w *world) Reachable() []controlplane.InstanceID {
	w.printed.mu.Lock()
	defer w.printed.mu.Unlock()
	ids := []controlplane.InstanceID{}
	for id := range w.printed.logs {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (w *world) ReadLogs(ctx context.Context, id controlplane.InstanceID, q controlplane.LogQuery, take func(controlplane.LogBatch) error) error {
	w.printed.mu.Lock()
	l := w.printed.logs[id]
	l.asked = append(l.asked, q)
	kept, live, err := l.kept, l.live, l.err
	l.kept = nil
	w.printed.mu.Unlock()
	for _, b := range append(kept, controlplane.LogBatch{CaughtUp: true}) {
		if err := take(b); err != nil {
			return err
		}
	}
	if !q.Follow || err != nil {
		return err
	}
	for {
		select {
		case b, ok := <-live:
			if !ok {
				return fmt.Errorf("cut: %w", errdefs.ErrUnavailable)
			}
			if err := take(b); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// batch is lines of an instance at milliseconds after noon, each "ms".
func batch(id controlplane.InstanceID, at ...int) (b controlplane.LogBatch) {
	for _, ms := range at {
		b.Lines = append(b.Lines, controlplane.LogLine{
			Time: noon.Add(time.Duration(ms) * time.Millisecond), Function: "hello", Version: "1", Environment: "e-1", Instance: id,
			RequestID: "r", Source: controlplane.LogStderr, Text: fmt.Append(nil, ms),
		})
	}
	return b
}

// read reads a stream until it has n lines, or to its end if n is below 0, and
// returns them as "instance:text" and the notices.
func readLogs(t *testing.T, stream operatorv1.OperatorService_LogsClient, n int) (lines, notices []string) {
	t.Helper()
	for n < 0 || len(lines) < n {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return lines, notices
		}
		if err != nil {
			t.Fatalf("after %q %q: %v", lines, notices, err)
		}
		for _, l := range m.GetLines() {
			lines = append(lines, l.GetInstance()+":"+string(l.GetText()))
		}
		notices = append(notices, m.GetNotices()...)
	}
	return lines, notices
}

func TestLogsOfAllInstancesAreMergedByTime(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		req  *operatorv1.LogsRequest
		want string
	}{
		"all":      {&operatorv1.LogsRequest{Function: "hello"}, "i-1:1 i-2:2 i-1:3 i-1:4 i-2:5 i-2:6 i-1:7"},
		"the last": {&operatorv1.LogsRequest{Function: "hello", Tail: new(int64(3))}, "i-2:5 i-2:6 i-1:7"},
		"none":     {&operatorv1.LogsRequest{Function: "hello", Tail: new(int64(0))}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			w.printed.set("i-1", &instanceLog{kept: []controlplane.LogBatch{batch("i-1", 1, 3), batch("i-1", 4), batch("i-1", 7)}})
			lost := batch("i-2", 6)
			lost.Lost = 9
			w.printed.set("i-2", &instanceLog{kept: []controlplane.LogBatch{batch("i-2", 2, 5), lost}})
			w.printed.set("i-3", &instanceLog{err: fmt.Errorf("many: %w", errdefs.ErrResourceExhausted)})
			c, _ := client(t, w)
			stream, err := c.Logs(t.Context(), tc.req)
			if err != nil {
				t.Fatal(err)
			}
			lines, notices := readLogs(t, stream, -1)
			if got := strings.Join(lines, " "); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
			slices.Sort(notices)
			if d := cmp.Diff([]string{
				"instance i-2: 9 lines are missing: they came faster than they could be kept or read",
				"instance i-3: it has too many readers",
				"instance i-5 cannot be reached: what ran there is missing",
			}, notices); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestALineHasItsTags(t *testing.T) {
	t.Parallel()
	w := newWorld()
	l := &instanceLog{kept: []controlplane.LogBatch{batch("i-1", 1)}}
	w.printed.set("i-1", l)
	c, _ := client(t, w)
	stream, err := c.Logs(t.Context(), &operatorv1.LogsRequest{
		Function: "hello", Version: "1", Environment: "e-1", RequestId: "r", Since: timestamppb.New(noon), Tail: new(int64(5)),
	})
	if err != nil {
		t.Fatal(err)
	}
	var got *operatorv1.LogLine
	for got == nil {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if len(m.GetLines()) > 0 {
			got = m.GetLines()[0]
		}
	}
	if text := fmt.Sprint(got.GetFunction(), got.GetVersion(), got.GetEnvironment(), got.GetRequestId(), got.GetSource(), got.GetTime().AsTime()); text !=
		fmt.Sprint("hello1e-1r", operatorv1.LogSource_LOG_SOURCE_STDERR, noon.Add(time.Millisecond)) {
		t.Errorf("got %s", text)
	}
	want := []controlplane.LogQuery{{Function: "hello", Version: "1", Environment: "e-1", RequestID: "r", Since: noon, Tail: 5}}
	if d := cmp.Diff(want, l.asked); d != "" {
		t.Error(d)
	}
}

func TestLogsAreFollowedOnInstancesThatComeAndComeBack(t *testing.T) {
	t.Parallel()
	w := newWorld()
	first := make(chan controlplane.LogBatch)
	w.printed.set("i-1", &instanceLog{kept: []controlplane.LogBatch{batch("i-1", 1)}, live: first})
	c, _ := client(t, w)
	stream, err := c.Logs(t.Context(), &operatorv1.LogsRequest{Function: "hello", Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	if lines, _ := readLogs(t, stream, 1); lines[0] != "i-1:1" {
		t.Fatalf("got %q", lines)
	}
	second := make(chan controlplane.LogBatch)
	w.printed.set("i-2", &instanceLog{live: second})
	second <- batch("i-2", 10)
	if lines, _ := readLogs(t, stream, 1); lines[0] != "i-2:10" {
		t.Fatalf("of an instance that came: got %q", lines)
	}
	again := make(chan controlplane.LogBatch)
	back := &instanceLog{live: again}
	w.printed.set("i-1", back)
	close(first)
	again <- batch("i-1", 20)
	lines, notices := readLogs(t, stream, 1)
	if lines[0] != "i-1:20" || !slices.Contains(notices, "instance i-1: it cannot be reached any more") || !slices.Contains(notices, "instance i-1 is read again") {
		t.Errorf("of an instance that came back: got %q %q", lines, notices)
	}
	w.printed.mu.Lock()
	defer w.printed.mu.Unlock()
	if q := back.asked[0]; q.Tail != -1 || !q.Since.After(noon.Add(time.Millisecond)) {
		t.Errorf("asked again for %+v", q)
	}
}

func TestLinesOfAMomentAreInOrderWhoeverIsHeardFirst(t *testing.T) {
	t.Parallel()
	w := newWorld()
	a, b := make(chan controlplane.LogBatch), make(chan controlplane.LogBatch)
	w.printed.set("i-1", &instanceLog{live: a})
	w.printed.set("i-2", &instanceLog{live: b})
	c, _ := client(t, w)
	stream, err := c.Logs(t.Context(), &operatorv1.LogsRequest{Function: "hello", Follow: true, Tail: new(int64(0))})
	if err != nil {
		t.Fatal(err)
	}
	inOrder := 0
	for i := range 10 { // a tick may fall between the two
		a <- batch("i-1", 10*i+1)
		b <- batch("i-2", 10*i)
		lines, _ := readLogs(t, stream, 2)
		if cmp.Equal(lines, []string{fmt.Sprintf("i-2:%d", 10*i), fmt.Sprintf("i-1:%d", 10*i+1)}) {
			inOrder++
		}
	}
	if inOrder < 7 {
		t.Errorf("%d of 10 pairs were in order", inOrder)
	}
}

func TestManyLinesAreNotHeldUp(t *testing.T) {
	t.Parallel()
	w := newWorld()
	live := make(chan controlplane.LogBatch)
	w.printed.set("i-1", &instanceLog{live: live})
	c, _ := client(t, w)
	stream, err := c.Logs(t.Context(), &operatorv1.LogsRequest{Function: "hello", Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	var writing sync.WaitGroup
	writing.Go(func() {
		for range 100 {
			live <- batch("i-1", make([]int, 512)...)
		}
	})
	began := time.Now()
	lines, _ := readLogs(t, stream, 51_200)
	if took := time.Since(began); len(lines) != 51_200 || took > 10*time.Second { // a batch each tick would take 20 s
		t.Errorf("%d lines took %v", len(lines), took)
	}
	writing.Wait()
}

func TestLogsNeedAFunctionAndASensibleTail(t *testing.T) {
	t.Parallel()
	c, _ := client(t, newWorld())
	for want, req := range map[string]*operatorv1.LogsRequest{
		"the function is required": {},
		"0 to 100000":              {Function: "hello", Tail: new(int64(-1))},
		"the last 100001 lines":    {Function: "hello", Tail: new(int64(100_001))},
	} {
		stream, err := c.Logs(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		wantStatus(t, err, codes.InvalidArgument, want)
	}
}

func TestWhoFollowsIsSentAwayWhenTheServiceStops(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.stopping = make(chan struct{})
	w.printed.set("i-1", &instanceLog{kept: []controlplane.LogBatch{batch("i-1", 1)}})
	c, _ := client(t, w)
	stream, err := c.Logs(t.Context(), &operatorv1.LogsRequest{Function: "hello", Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	readLogs(t, stream, 1)
	close(w.stopping)
	for err == nil {
		_, err = stream.Recv()
	}
	wantStatus(t, err, codes.Unavailable, "the control service is stopping")
}
