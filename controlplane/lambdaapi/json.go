package lambdaapi

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// The functions here take valid JSON apart without copying it: what they pass
// on are pieces of what they were given. A request's archive is most of it.

// wellFormed reports whether body is JSON in UTF-8. Nesting is bounded by
// encoding/json, at 10,000.
func wellFormed(body []byte) bool { return utf8.Valid(body) && json.Valid(body) }

// object calls fn for each member of a valid JSON object, in their order. It
// reports false when raw is no object.
func object(raw []byte, fn func(name string, value []byte) error) (bool, error) {
	raw = skipSpace(raw)
	if raw[0] != '{' {
		return false, nil
	}
	for raw = skipSpace(raw[1:]); raw[0] != '}'; {
		n := valueEnd(raw)
		name := unquote(raw[:n])
		raw = skipSpace(skipSpace(raw[n:])[1:]) // the colon
		n = valueEnd(raw)
		if err := fn(name, raw[:n]); err != nil {
			return true, err
		}
		if raw = skipSpace(raw[n:]); raw[0] == ',' {
			raw = skipSpace(raw[1:])
		}
	}
	return true, nil
}

// array calls fn for each element of a valid JSON array. It reports false when
// raw is no array.
func array(raw []byte, fn func(value []byte) error) (bool, error) {
	raw = skipSpace(raw)
	if raw[0] != '[' {
		return false, nil
	}
	for raw = skipSpace(raw[1:]); raw[0] != ']'; {
		n := valueEnd(raw)
		if err := fn(raw[:n]); err != nil {
			return true, err
		}
		if raw = skipSpace(raw[n:]); raw[0] == ',' {
			raw = skipSpace(raw[1:])
		}
	}
	return true, nil
}

func skipSpace(raw []byte) []byte { return bytes.TrimLeft(raw, " \t\r\n") }

// valueEnd is how long the value at the beginning of raw is.
func valueEnd(raw []byte) int {
	if raw[0] != '{' && raw[0] != '[' {
		return scalarEnd(raw)
	}
	for i, depth := 0, 0; ; {
		switch raw[i] {
		case '"':
			i += scalarEnd(raw[i:])
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		if i++; depth == 0 {
			return i
		}
	}
}

// scalarEnd is how long the string, number or word at the beginning of raw is.
func scalarEnd(raw []byte) int {
	if raw[0] != '"' {
		if n := bytes.IndexAny(raw, ",]} \t\r\n"); n >= 0 {
			return n
		}
		return len(raw)
	}
	for i := 1; ; i += 2 {
		i += bytes.IndexAny(raw[i:], `"\`)
		if raw[i] == '"' {
			return i + 1
		}
	}
}

// unquote returns the text of a JSON string.
func unquote(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	var text string
	_ = json.Unmarshal(raw, &text) // valid, as the whole was
	return text
}
