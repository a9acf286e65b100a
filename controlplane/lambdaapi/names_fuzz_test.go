package lambdaapi

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// FuzzProviderName reads names and ARNs of capacity providers. What is accepted
// means the same when it is written in full; what is not is an exception.
func FuzzProviderName(f *testing.F) {
	for _, name := range []string{
		"p", "arn:aws:lambda:us-east-1:123456789012:capacity-provider:p", "arn:aws:lambda:eu-west-1:123456789012:capacity-provider:p", "", "p:q", "p\x00",
	} {
		f.Add(name)
	}
	s := bare()
	f.Fuzz(func(t *testing.T, name string) {
		p, err := s.provider(&name)
		if err != nil {
			if e, ok := errors.AsType[*exception](err); !ok || e.status != 400 && e.status != 404 {
				t.Fatalf("got %v", err)
			}
			return
		}
		full := s.arn("capacity-provider", string(p))
		if again, err := s.providerOf(full); err != nil || again != p {
			t.Fatalf("%q is %q, which in full is %q: %q %v", name, p, full, again, err)
		}
	})
}

// FuzzJSON takes JSON apart: object and array find what encoding/json finds.
func FuzzJSON(f *testing.F) {
	for _, body := range []string{
		`{}`, `null`, `[]`, ` {"Role" : "r" , "Timeout":3,"Publish":true,"Tags":{"a":"b","a":null}} `, `{"a":1,"a":2}`, `[1,[2],{"b":"]"}]`,
		`{"Environment":{"Variables":{"\u0041A":"\ud83d\ude00\ud800"}}}`, `["a",null,"]}", "\\"]`, `{"\"":"\\","x":{"y":["\"]}"]}}`, `"\u00"`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if wellFormed(raw) {
			agrees(t, raw)
		}
	})
}

// agrees checks that object and array find what encoding/json finds.
func agrees(t *testing.T, raw []byte) {
	t.Helper()
	found := map[string]json.RawMessage{}
	isObject, _ := object(raw, func(name string, value []byte) error {
		found[name] = append(json.RawMessage{}, value...)
		return nil
	})
	list := []json.RawMessage{}
	isArray, _ := array(raw, func(value []byte) error {
		list = append(list, append(json.RawMessage{}, value...))
		return nil
	})
	switch strings.TrimLeft(string(raw), " \t\r\n")[0] {
	case '{':
		var want map[string]json.RawMessage
		if err := json.Unmarshal(raw, &want); err != nil || !isObject || !reflect.DeepEqual(found, want) {
			t.Fatalf("%s is %s, want %s (%v)", raw, found, want, err)
		}
	case '[':
		var want []json.RawMessage
		if err := json.Unmarshal(raw, &want); err != nil || !isArray || !reflect.DeepEqual(list, want) {
			t.Fatalf("%s is %s, want %s (%v)", raw, list, want, err)
		}
	default:
		if isObject || isArray {
			t.Fatalf("%s is neither object nor array", raw)
		}
	}
}
