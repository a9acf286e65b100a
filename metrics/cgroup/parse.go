package cgroup

import (
	"bytes"
	"math"
	"time"
)

// number returns the decimal number content begins with. Anything else, "max"
// included, is 0; what is too large is the largest.
func number(content []byte) int64 {
	n, _ := digits(content)
	return n
}

// digits reads a decimal number and says how many bytes it takes.
func digits(b []byte) (n int64, length int) {
	for _, c := range b {
		if c < '0' || c > '9' {
			break
		}
		length++
		digit := int64(c - '0')
		if n > (math.MaxInt64-digit)/10 {
			n = math.MaxInt64
			continue
		}
		n = n*10 + digit
	}
	return n, length
}

// value returns the number behind a key in "key number" lines, 0 if it is not
// there.
func value(content []byte, key string) int64 {
	for len(content) > 0 {
		line, rest := content, []byte(nil)
		if i := bytes.IndexByte(content, '\n'); i >= 0 {
			line, rest = content[:i], content[i+1:]
		}
		if len(line) > len(key) && line[len(key)] == ' ' && string(line[:len(key)]) == key {
			return number(line[len(key)+1:])
		}
		content = rest
	}
	return 0
}

func nanoseconds(n int64) time.Duration { return time.Duration(n) }

func microseconds(n int64) time.Duration {
	if n > math.MaxInt64/int64(time.Microsecond) {
		return math.MaxInt64
	}
	return time.Duration(n) * time.Microsecond
}
