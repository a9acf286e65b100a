package admit_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/hearth-compute/hearth/agent/admit"
)

// What the search for the limit was compared with, each as its authors describe
// it, as far as it needs no help of callers.

// gradient2 is of Netflix's concurrency-limits: the limit follows the ratio of the
// long-term to the present latency.
type gradient2 struct{ limit, long float64 }

func (g *gradient2) slots() int { return int(g.limit) }

func (*gradient2) sample(admit.Usage, admit.Work) {}

func (g *gradient2) completed(took time.Duration, inFlight int) {
	now := float64(took)
	if g.long == 0 {
		g.long = now
	}
	g.long += (now - g.long) / 600
	if g.long/now > 2 {
		g.long *= 0.95
	}
	if float64(inFlight) < g.limit/2 {
		return
	}
	gradient := max(0.5, min(1, 1.5*g.long/now))
	next := g.limit*gradient + 4
	g.limit = min(64, max(4, g.limit*0.8+next*0.2))
}

// vegas is of the same library: it estimates the queue from the least latency
// ever, and keeps it between two bounds.
type vegas struct{ limit, least float64 }

func (v *vegas) slots() int { return int(v.limit) }

func (*vegas) sample(admit.Usage, admit.Work) {}

func (v *vegas) completed(took time.Duration, inFlight int) {
	now := float64(took)
	if v.least == 0 || now < v.least {
		v.least = now
	}
	if float64(inFlight) < v.limit/2 {
		return
	}
	queue, log := math.Ceil(v.limit*(1-v.least/now)), math.Log10(v.limit)
	switch {
	case queue <= log:
		v.limit += 6 * log
	case queue < 3*log:
		v.limit += log
	case queue > 6*log:
		v.limit -= log
	}
	v.limit = min(64, max(4, v.limit))
}

// targeted is AIMD on the time spent waiting, which Breakwater and DAGOR do by
// rates and priorities of callers: an answer later than a set target halves the
// limit, at most once in 100 ms.
type targeted struct {
	limit  float64
	target time.Duration
	late   bool
}

func (t *targeted) slots() int { return int(t.limit) }

func (t *targeted) sample(admit.Usage, admit.Work) {
	if t.late {
		t.limit = max(4, t.limit*0.7)
	}
	t.late = false
}

func (t *targeted) completed(took time.Duration, inFlight int) {
	if took > t.target {
		t.late = true
	} else if float64(inFlight) >= t.limit/2 {
		t.limit = min(64, t.limit+1/t.limit)
	}
}

// fixed admits up to the ceiling.
type fixed struct{}

func (fixed) slots() int                     { return 64 }
func (fixed) sample(admit.Usage, admit.Work) {}
func (fixed) completed(time.Duration, int)   {}

// TestTheSearchBeatsWhatItWasComparedWith on what is asked of it: goodput near
// capacity, nothing taken from handlers that wait, and finding the limit again
// when the cost of an invocation changes. Run it with -v for the table.
func TestTheSearchBeatsWhatItWasComparedWith(t *testing.T) {
	t.Parallel()
	overload := burning(5)
	mixed := burning(3)
	mixed.wait = always(90 * time.Millisecond)
	waits := burning(0)
	waits.rate, waits.cost, waits.wait = constant(5*64/0.05), always(100*time.Microsecond), always(50*time.Millisecond)
	step := burning(2)
	step.length, step.from = 40*time.Second, 25*time.Second
	step.cost = func(at time.Duration, _ *rand.Rand) time.Duration {
		if at < 20*time.Second {
			return 2 * time.Millisecond
		}
		return 20 * time.Millisecond
	}
	table := []string{fmt.Sprintf("%-28s %14s %14s %14s %14s", "goodput within 150 ms, of peak", "10 ms CPU, 5 ×", "+90 ms, 3 ×", "50 ms waiting", "2 → 20 ms")}
	scores := map[string][4]float64{}
	for _, c := range []struct {
		name string
		make func() limiter
	}{
		{"search (ours)", func() limiter { return nil }},
		{"gradient2", func() limiter { return &gradient2{limit: 20} }},
		{"vegas", func() limiter { return &vegas{limit: 20} }},
		{"target 100 ms", func() limiter { return &targeted{limit: 64, target: 100 * time.Millisecond} }},
		{"none", func() limiter { return fixed{} }},
	} {
		var score [4]float64
		for i, m := range []machine{overload, mixed, waits, step} {
			m.limiter = c.make()
			out := m.run()
			peak := []float64{100, 100, 64 / 0.0502, 50}[i]
			score[i] = out.within(150*time.Millisecond) / peak
		}
		scores[c.name] = score
		table = append(table, fmt.Sprintf("%-28s %14.2f %14.2f %14.2f %14.2f", c.name, score[0], score[1], score[2], score[3]))
	}
	t.Log("\n" + strings.Join(table, "\n"))
	for name, score := range scores {
		least, ours := 1.0, 1.0
		for i := range score {
			least, ours = min(least, score[i]), min(ours, scores["search (ours)"][i])
		}
		if least > ours {
			t.Errorf("%s does at least %.2f everywhere, ours %.2f", name, least, ours)
		}
	}
}
