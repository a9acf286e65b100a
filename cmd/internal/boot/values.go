package boot

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Size is a flag value in bytes, written as a whole number with or without a
// unit: 8GiB, 512MiB, 64KiB, 1TiB, 100B.
type Size int64

// The units of a Size.
const (
	KiB Size = 1 << (10 * (iota + 1))
	MiB
	GiB
	TiB
)

type unit struct {
	name string
	size Size
}

func units() []unit {
	return []unit{{"TiB", TiB}, {"GiB", GiB}, {"MiB", MiB}, {"KiB", KiB}, {"B", 1}}
}

// String is the size in the largest unit that divides it.
func (s Size) String() string {
	for _, u := range units() {
		if s != 0 && s%u.size == 0 {
			return strconv.FormatInt(int64(s/u.size), 10) + u.name
		}
	}
	return "0B"
}

// Set implements flag.Value.
func (s *Size) Set(text string) error {
	digits, size := strings.TrimSpace(text), Size(1)
	for _, u := range units() {
		if rest, ok := strings.CutSuffix(digits, u.name); ok {
			digits, size = strings.TrimSpace(rest), u.size
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	switch {
	case err != nil:
		return fmt.Errorf("want a size such as 512MiB or 8GiB")
	case n < 0:
		return fmt.Errorf("a size cannot be negative")
	case n > math.MaxInt64/int64(size):
		return fmt.Errorf("the size is too large")
	}
	*s = Size(n) * size
	return nil
}

// List is a repeatable flag. The first value given replaces the default.
type List struct {
	values []string
	given  bool
}

// NewList makes a list with default values.
func NewList(values ...string) *List { return &List{values: values} }

// Values are the values in the order they were given.
func (l *List) Values() []string { return slices.Clone(l.values) }

// String implements flag.Value.
func (l *List) String() string {
	if l == nil {
		return ""
	}
	return strings.Join(l.values, ",")
}

// Set implements flag.Value.
func (l *List) Set(text string) error {
	if text == "" {
		return fmt.Errorf("want a value")
	}
	if !l.given {
		l.values, l.given = nil, true
	}
	l.values = append(l.values, text)
	return nil
}

// Repeatable implements [Repeatable].
func (*List) Repeatable() bool { return true }
