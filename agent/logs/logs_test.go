package logs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/agent"
	"github.com/hearth-compute/hearth/agent/logs"
)

const (
	requestA = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"
	requestB = "11111111-2222-4333-8444-555555555555"
)

func config(t *testing.T) logs.Config {
	return logs.Config{
		Dir: filepath.Join(t.TempDir(), "logs"), PerEnvironment: logs.LeastPerEnvironment, Total: logs.LeastTotal,
		Log: slog.New(slog.DiscardHandler),
	}
}

// open returns a store that runs until stop is called, or the test ends.
func open(t *testing.T, cfg logs.Config) (s *logs.Store, stop func()) {
	t.Helper()
	s, err := logs.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(errors.New("stopped")); running.Wait() })
	t.Cleanup(stop)
	return s, stop
}

func stream(s *logs.Store, function, environment string) *logs.Stream {
	return s.Open(logs.Options{Tags: logs.Tags{Function: function, Version: "1", Environment: agent.EnvironmentID(environment)}})
}

// read returns all that a query finds now, as "environment request text", and how
// many lines were lost.
func read(t *testing.T, s *logs.Store, q logs.Query) (lines []string, lost int64) {
	t.Helper()
	r, err := s.Read(q)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for {
		b, err := r.Next(t.Context())
		if errors.Is(err, io.EOF) {
			return lines, lost
		}
		if err != nil {
			t.Fatal(err)
		}
		lost += b.Lost
		for _, l := range b.Lines {
			lines = append(lines, fmt.Sprintf("%s %s %s", l.Environment, l.RequestID, l.Text))
		}
	}
}

func all(function string) logs.Query { return logs.Query{Function: function, Tail: -1} }

func TestLinesAreKeptWithTheirTagsInOrder(t *testing.T) {
	t.Parallel()
	s, stop := open(t, config(t))
	a, b, other := stream(s, "f", "e-a"), stream(s, "f", "e-b"), stream(s, "g", "e-c")
	a.Line(logs.Stdout, []byte("one"))
	b.Line(logs.Stderr, []byte("two\tRequestId: "+requestA))
	a.Line(logs.Extension, nil)
	other.Line(logs.Stdout, []byte("not f's"))
	a.Platform(requestB, []byte("END\nREPORT"), true)
	stop()
	got, _ := read(t, s, all("f"))
	want := []string{"e-a  one", "e-b " + requestA + " two\tRequestId: " + requestA, "e-a  ", "e-a " + requestB + " END", "e-a " + requestB + " REPORT"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for name, tc := range map[string]struct {
		q    logs.Query
		want []string
	}{
		"an environment": {logs.Query{Function: "f", Environment: "e-b", Tail: -1}, want[1:2]},
		"a request":      {logs.Query{Function: "f", RequestID: requestB, Tail: -1}, want[3:]},
		"a version":      {logs.Query{Function: "f", Version: "2", Tail: -1}, nil},
		"the last":       {logs.Query{Function: "f", Tail: 2}, want[3:]},
		"none":           {logs.Query{Function: "f"}, nil},
		"the future":     {logs.Query{Function: "f", Tail: -1, Since: time.Now().Add(time.Minute)}, nil},
	} {
		if got, _ := read(t, s, tc.q); !cmp.Equal(tc.want, got) {
			t.Errorf("%s: %s", name, cmp.Diff(tc.want, got))
		}
	}
}

func TestLinesOutliveTheAgentAndHalfARecordIsSkipped(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	s, stop := open(t, cfg)
	stream(s, "f", "e-a").Line(logs.Stdout, []byte("before"))
	stop()
	// What a crash leaves: a record cut short, and a segment without its header.
	files, err := filepath.Glob(filepath.Join(cfg.Dir, "e-a", "*.log"))
	if err != nil || len(files) != 1 {
		t.Fatalf("got %v %v", files, err)
	}
	f, err := os.OpenFile(files[0], os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("2026-11-23T21:02:13.123456789Z o - to"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"0000000002.log": "hearth-log 1 {\"func", "notes.txt": "mine"} {
		if err := os.WriteFile(filepath.Join(cfg.Dir, "e-a", name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, stop = open(t, cfg)
	stream(s, "f", "e-a").Line(logs.Stdout, []byte("after"))
	stop()
	got, lost := read(t, s, all("f"))
	if d := cmp.Diff([]string{"e-a  before", "e-a  after"}, got); d != "" || lost != 0 {
		t.Errorf("%s, %d lost", d, lost)
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, "e-a", "notes.txt")); err != nil {
		t.Error(err)
	}
}

// size is what is on disk below dir.
func size(t *testing.T, dir string) (sum int64) {
	t.Helper()
	err := filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			sum += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// written waits until a store has written n lines.
func written(t *testing.T, s *logs.Store, n int64) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(20 * time.Second)
	for s.Counts().Kept+s.Counts().LostMemory+s.Counts().LostDisk < n {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("waited in vain for %d lines: %+v", n, s.Counts())
		}
	}
}

func TestAnEnvironmentKeepsItsNewestLinesWithinItsBound(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	s, stop := open(t, cfg)
	loud, quiet := stream(s, "loud", "e-loud"), stream(s, "quiet", "e-quiet")
	quiet.Line(logs.Stdout, []byte("hello"))
	const n = 3000
	for i := range int64(n) {
		loud.Line(logs.Stdout, fmt.Appendf(nil, "%d %s", i, strings.Repeat("x", 1000)))
		if i%200 == 199 {
			written(t, s, i)
		}
	}
	stop()
	if got := size(t, filepath.Join(cfg.Dir, "e-loud")); got > int64(cfg.PerEnvironment) || got < int64(cfg.PerEnvironment)/2 {
		t.Errorf("%d bytes are kept within %d", got, cfg.PerEnvironment)
	}
	got, _ := read(t, s, all("loud"))
	if len(got) < 400 || !strings.HasPrefix(got[len(got)-1], "e-loud  2999 ") {
		t.Errorf("%d lines are left, the last %.20s", len(got), got[len(got)-1])
	}
	if got, _ := read(t, s, all("quiet")); len(got) != 1 {
		t.Errorf("another environment lost its lines: %q", got)
	}
	if c := s.Counts(); c.LostDisk != 0 || c.LostMemory+c.Kept != n+1 {
		t.Errorf("got %+v", c)
	}
}

func TestAnInstanceDropsTheOldestEnvironmentFirst(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	s, stop := open(t, cfg)
	var count int64
	for e := range 14 {
		st := stream(s, "f", fmt.Sprintf("e-%02d", e))
		for range 900 {
			st.Line(logs.Stdout, bytes.Repeat([]byte{'x'}, 1000))
			if count++; count%300 == 0 {
				written(t, s, count)
			}
		}
		st.Close()
		written(t, s, count)
	}
	stop()
	if got := size(t, cfg.Dir); got > int64(cfg.Total) || got < int64(cfg.Total)/2 {
		t.Errorf("%d bytes are kept within %d", got, cfg.Total)
	}
	if c := s.Counts(); c.Bytes > int64(cfg.Total) {
		t.Errorf("counted %d bytes", c.Bytes)
	}
	for e, kept := range map[string]bool{"e-00": false, "e-01": false, "e-12": true, "e-13": true} {
		if _, err := os.Stat(filepath.Join(cfg.Dir, e)); (err == nil) != kept {
			t.Errorf("%s is kept: want %t, got %v", e, kept, err)
		}
	}
	// The next process counts what it finds.
	again, _ := open(t, cfg)
	if got, want := again.Counts().Bytes, s.Counts().Bytes; got != want {
		t.Errorf("found %d bytes, %d were kept", got, want)
	}
}

func TestLinesAreKeptOfSoManyEnvironments(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.Total = 1 << 30
	s, stop := open(t, cfg)
	const n = 2100
	for e := range n {
		st := stream(s, "f", fmt.Sprintf("e-%04d", e))
		st.Line(logs.Stdout, []byte("x"))
		st.Close()
		if e == 0 {
			written(t, s, 1)
		}
	}
	written(t, s, n)
	stop()
	got, _ := read(t, s, all("f"))
	if len(got) > 2048 || len(got) < 1950 || slices.Contains(got, "e-0000  x") {
		t.Errorf("lines of %d environments are kept, the oldest too: %t", len(got), slices.Contains(got, "e-0000  x"))
	}
	if dirs, err := os.ReadDir(cfg.Dir); err != nil || len(dirs) != len(got) {
		t.Errorf("there are %d directories: %v", len(dirs), err)
	}
}

func TestADiskThatIsFullLosesLinesAndHoldsNothingUp(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	s, stop := open(t, cfg)
	st := stream(s, "f", "e-a")
	st.Line(logs.Stdout, []byte("first"))
	written(t, s, 1)
	// A directory in the place of the environment's stands for a disk that takes no
	// more: root may write anywhere.
	if err := os.RemoveAll(cfg.Dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.Dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	other := stream(s, "f", "e-b")
	for range 1000 {
		other.Line(logs.Stdout, []byte("lost"))
	}
	written(t, s, 1001)
	if c := s.Counts(); c.LostDisk != 1000 {
		t.Fatalf("got %+v", c)
	}
	if err := os.Remove(cfg.Dir); err != nil {
		t.Fatal(err)
	}
	other.Line(logs.Stdout, []byte("found"))
	stop()
	got, lost := read(t, s, all("f"))
	if d := cmp.Diff([]string{"e-b  found"}, got); d != "" || lost != 1000 {
		t.Errorf("%s, %d lost", d, lost)
	}
}

func TestMoreThanFitsInMemoryIsLostAndSaid(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.PerEnvironment *= 4
	s, err := logs.New(cfg) // nobody writes yet
	if err != nil {
		t.Fatal(err)
	}
	st := stream(s, "f", "e-a")
	for range 5000 {
		st.Line(logs.Stdout, bytes.Repeat([]byte{'x'}, 1000))
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("stopped"))
	if err := s.Run(ctx); err != nil {
		t.Fatal(err)
	}
	c := s.Counts()
	got, lost := read(t, s, all("f"))
	if c.LostMemory == 0 || c.Kept+c.LostMemory != 5000 || lost != c.LostMemory || int64(len(got)) != c.Kept {
		t.Errorf("%+v, %d read, %d lost", c, len(got), lost)
	}
}

func TestAReaderFollowsEnvironmentsThatComeLater(t *testing.T) {
	t.Parallel()
	s, _ := open(t, config(t))
	stream(s, "f", "e-a").Line(logs.Stdout, []byte("old"))
	written(t, s, 1)
	r, err := s.Read(logs.Query{Function: "f", Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := r.Next(t.Context()); err != nil || !b.CaughtUp || len(b.Lines) != 0 {
		t.Fatalf("got %v %v", b, err)
	}
	for i := range 20 {
		stream(s, "f", fmt.Sprintf("e-%d", i)).Line(logs.Stdout, fmt.Append(nil, i))
		b, err := r.Next(t.Context())
		if err != nil || len(b.Lines) != 1 || string(b.Lines[0].Text) != fmt.Sprint(i) {
			t.Fatalf("line %d: got %v %v", i, b, err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	left := errors.New("left")
	cancel(left)
	if _, err := r.Next(ctx); !errors.Is(err, left) {
		t.Errorf("got %v", err)
	}
}

func TestASlowReaderIsToldWhatItMissed(t *testing.T) {
	t.Parallel()
	s, stop := open(t, config(t))
	st := stream(s, "f", "e-a")
	st.Line(logs.Stdout, []byte("begin"))
	written(t, s, 1)
	r, err := s.Read(logs.Query{Function: "f", Tail: -1, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got, lost int64
	b, err := r.Next(t.Context())
	if err != nil || len(b.Lines) != 1 {
		t.Fatalf("got %v %v", b, err)
	}
	const n = 4000 // four times what is kept
	for i := range int64(n) {
		st.Line(logs.Stdout, bytes.Repeat([]byte{'x'}, 1000))
		if i%200 == 199 {
			written(t, s, i+2)
		}
	}
	stop()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 2*time.Second, errors.New("no more"))
	defer cancel()
	for got+lost < n {
		b, err := r.Next(ctx)
		if err != nil {
			break
		}
		got, lost = got+int64(len(b.Lines)), lost+b.Lost
	}
	if got+lost != n || got < 500 || lost < 2000 {
		t.Errorf("read %d and missed %d of %d", got, lost, n)
	}
}

func TestReadersAreFew(t *testing.T) {
	t.Parallel()
	s, _ := open(t, config(t))
	var last *logs.Reader
	for range 64 {
		r, err := s.Read(logs.Query{})
		if err != nil {
			t.Fatal(err)
		}
		last = r
	}
	if _, err := s.Read(logs.Query{}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("got %v", err)
	}
	last.Close()
	last.Close()
	if _, err := s.Read(logs.Query{}); err != nil {
		t.Error(err)
	}
	if _, err := s.Read(logs.Query{}); err == nil {
		t.Error("a reader closed twice counts twice")
	}
}

func TestBoundsAreNotTooSmall(t *testing.T) {
	t.Parallel()
	for _, change := range []func(*logs.Config){
		func(c *logs.Config) { c.PerEnvironment-- }, func(c *logs.Config) { c.Total-- },
	} {
		cfg := config(t)
		change(&cfg)
		if _, err := logs.New(cfg); !errdefs.IsInvalidArgument(err) {
			t.Errorf("got %v", err)
		}
	}
}

func TestLongLinesAreKeptWhole(t *testing.T) {
	t.Parallel()
	s, stop := open(t, config(t))
	long := strings.Repeat("long ", 50_000)
	stream(s, "f", "e-a").Line(logs.Stdout, []byte(long))
	stream(s, "f", "e-a").Line(logs.Stdout, []byte("short\nand more"))
	stop()
	got, _ := read(t, s, all("f"))
	if d := cmp.Diff([]string{"e-a  " + long, "e-a  short and more"}, got); d != "" {
		t.Error(d)
	}
}

func TestATailHasTheLinesOfItsRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, err := logs.New(config(t))
		if err != nil {
			t.Fatal(err)
		}
		st := stream(s, "f", "e-a")
		a, b, unasked := st.Tail(requestA), st.Tail(requestB), "99999999-2222-4333-8444-555555555555"
		for i := range 3 {
			for _, id := range []string{requestA, requestB, unasked} {
				st.Line(logs.Stdout, fmt.Appendf(nil, `{"requestId":"%s","n":%d}`, id, i))
			}
			st.Line(logs.Stdout, []byte("whose?"))
		}
		st.Platform(requestA, []byte("report"), true)
		go func() { // a line that was on its way
			time.Sleep(15 * time.Millisecond)
			st.Line(logs.Stderr, []byte("late RequestId: "+requestA))
		}()
		began := time.Now()
		want := fmt.Sprintf("{%[1]q:%[2]q,\"n\":0}\n{%[1]q:%[2]q,\"n\":1}\n{%[1]q:%[2]q,\"n\":2}\nlate RequestId: %[2]s\nreport\n", "requestId", requestA)
		if d := cmp.Diff(want, string(a.Finish(t.Context()))); d != "" {
			t.Error(d)
		}
		if took := time.Since(began); took != 35*time.Millisecond {
			t.Errorf("waited %v", took)
		}
		b.Drop()
		if got := b.Finish(t.Context()); strings.Contains(string(got), requestA) {
			t.Errorf("got %s", got)
		}
	})
}

func TestATailWaitsForNobodyForLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, err := logs.New(config(t))
		if err != nil {
			t.Fatal(err)
		}
		st := stream(s, "f", "e-a")
		tail := st.Tail(requestA)
		ctx, cancel := context.WithCancelCause(t.Context())
		var printing sync.WaitGroup
		printing.Go(func() {
			for ctx.Err() == nil {
				st.Line(logs.Stdout, []byte(requestA+"\t"+strings.Repeat("x", 300)))
				time.Sleep(5 * time.Millisecond)
			}
		})
		began := time.Now()
		got := tail.Finish(t.Context())
		if took := time.Since(began); took != 200*time.Millisecond || len(got) != logs.MaxTail {
			t.Errorf("waited %v for %d bytes", took, len(got))
		}
		tail = st.Tail(requestA)
		cancel(errors.New("left"))
		began = time.Now()
		if tail.Finish(ctx); time.Since(began) != 0 {
			t.Errorf("waited %v for nobody", time.Since(began))
		}
		printing.Wait()
	})
}

func TestLinesBelongToTheOneRequestThatRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, err := logs.New(config(t))
		if err != nil {
			t.Fatal(err)
		}
		st := s.Open(logs.Options{Tags: logs.Tags{Function: "f", Environment: "e-a"}, OneAtATime: true})
		line := func(text string) { st.Line(logs.Stdout, []byte(text)) }
		line("init")
		st.Began(requestA)
		line("1")
		line(`{"requestId":"` + requestB + `"}`) // somebody else's id
		st.Ended(requestA)
		time.Sleep(50 * time.Millisecond)
		line("2 was on its way")
		time.Sleep(100 * time.Millisecond)
		line("idle")
		st.Began(requestB)
		line("3")
		line("4 late RequestId: " + requestA)
		st.Ended(requestA) // no more
		line("5")
		st.Ended(requestB)
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("stopped"))
		if err := s.Run(ctx); err != nil {
			t.Fatal(err)
		}
		got, _ := read(t, s, logs.Query{RequestID: requestA, Tail: -1})
		want := []string{
			"1", `{"requestId":"` + requestB + `"}`, "2 was on its way", "4 late RequestId: " + requestA,
		}
		for i := range want {
			want[i] = "e-a " + requestA + " " + want[i]
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		if got, _ := read(t, s, logs.Query{RequestID: requestB, Tail: -1}); len(got) != 2 {
			t.Errorf("got %q", got)
		}
	})
}

func TestJSONLinesBelowTheLevelAreNotKept(t *testing.T) {
	t.Parallel()
	const at = `"timestamp":"2024-11-02T16:51:31.587199Z"`
	for _, tc := range []struct {
		level, line string
		kept        bool
	}{
		{"INFO", `{"level":"debug",` + at + `}`, false},
		{"INFO", `{"level":"DEBUG","time":"2024-11-02T16:51:31Z"}`, false},
		{"INFO", `{"level":"INFO",` + at + `}`, true},
		{"INFO", `{"level":"debug","msg":"without a time it counts as INFO"}`, true},
		{"INFO", `{"level":"debug","timestamp":"yesterday"}`, true},
		{"INFO", `{"message":{"level":"debug",` + at + `}}`, true},
		{"INFO", `DEBUG`, true},
		{"ERROR", `panic: no JSON`, true},
		{"ERROR", `{"level":"warn",` + at + `}`, false},
		{"ERROR", `{"msg":"of no level"}`, false},
		{"ERROR", `{"level":"error","msg":"without a time"}`, true},
		{"FATAL", `{"level":"critical",` + at + `}`, true},
		{"DEBUG", `{"level":"trace",` + at + `}`, false},
		{"TRACE", `{"level":"trace",` + at + `}`, true},
		{"", `{"level":"trace",` + at + `}`, true},
	} {
		s, stop := open(t, config(t))
		s.Open(logs.Options{Tags: logs.Tags{Function: "f", Environment: "e"}, Level: tc.level}).Line(logs.Stdout, []byte(tc.line))
		stop()
		if got, _ := read(t, s, all("f")); (len(got) == 1) != tc.kept {
			t.Errorf("%s %s: got %q", tc.level, tc.line, got)
		}
	}
}

func TestWhatIsKeptIsShippedToo(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	var got []string
	cfg.Ship = func(o logs.Options) func(logs.Line) {
		return func(l logs.Line) {
			got = append(got, fmt.Sprintf("%s %s %s %c %s %s%s", o.Sandbox, l.Function, l.Environment, l.Source, l.RequestID, l.Level, l.Text))
		}
	}
	s, _ := open(t, cfg)
	st := s.Open(logs.Options{Tags: logs.Tags{Function: "f", Environment: "e"}, Sandbox: "e-1", Level: "WARN"})
	st.Line(logs.Stderr, []byte("RequestId:"+requestA))
	st.Line(logs.Stdout, []byte(`{"level":"info"}`))
	st.Line(logs.Stdout, []byte(`{"level":"warning"}`))
	st.Platform("", []byte("{}"), false)
	if d := cmp.Diff([]string{"e-1 f e e " + requestA + " RequestId:" + requestA, `e-1 f e o  WARN{"level":"warning"}`, "e-1 f e p  {}"}, got); d != "" {
		t.Error(d)
	}
}
