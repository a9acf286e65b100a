package lambdaapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/traits"
	"github.com/containerd/errdefs"
)

// The codec reads and writes the SDK's types, which have no tags, by the SDK's
// schemas: they say where each member is (path, query, header, body), under
// which name and in which format.

// decode fills the struct that in points to from a request and its body.
func decode(r *http.Request, body []byte, schema *smithy.Schema, in any) error {
	target := reflect.ValueOf(in).Elem()
	query := r.URL.Query()
	inBody := false
	for name, member := range schema.Members() {
		text, located, given := "", true, false
		if _, ok := smithy.SchemaTrait[*traits.HTTPLabel](member); ok {
			text, given = r.PathValue(name), true
		} else if q, ok := smithy.SchemaTrait[*traits.HTTPQuery](member); ok {
			text, given = query.Get(q.Name), query.Has(q.Name)
		} else if h, ok := smithy.SchemaTrait[*traits.HTTPHeader](member); ok {
			text, given = r.Header.Get(h.Name), len(r.Header.Values(h.Name)) > 0
		} else {
			located, inBody = false, true
		}
		if located && given {
			if err := setText(target.FieldByName(field(name)), text); err != nil {
				return err
			}
		}
	}
	if !inBody || len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	if !json.Valid(body) {
		return malformed("Could not parse request body into json.")
	}
	return decodeStruct(body, schema, target, true)
}

// field is the Go name of a member.
func field(member string) string { return strings.ToUpper(member[:1]) + member[1:] }

// setText sets a member that travels outside the body.
func setText(to reflect.Value, text string) error {
	to = indirect(to)
	switch to.Kind() { //nolint:exhaustive // the kinds such members have
	case reflect.String:
		to.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return malformed("STRING_VALUE can not be converted to a Boolean")
		}
		to.SetBool(b)
	case reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, to.Type().Bits())
		if err != nil {
			return malformed("STRING_VALUE can not be converted to an Integer")
		}
		to.SetInt(n)
	default:
		return fmt.Errorf("member of kind %s outside the body: %w", to.Kind(), errdefs.ErrInternal)
	}
	return nil
}

// indirect makes what a pointer points to.
func indirect(v reflect.Value) reflect.Value {
	if v.Kind() != reflect.Pointer {
		return v
	}
	v.Set(reflect.New(v.Type().Elem()))
	return v.Elem()
}

// decodeStruct reads the members that are in the body; those of top that are
// elsewhere are never taken from it. Members the schema has not are ignored.
func decodeStruct(raw []byte, schema *smithy.Schema, to reflect.Value, top bool) error {
	var members map[string]json.RawMessage
	if raw[0] != '{' || json.Unmarshal(raw, &members) != nil {
		return malformed("Start of structure or map not found where expected.")
	}
	for name, value := range members {
		member := schema.Member(name)
		if member == nil || string(value) == "null" || top && elsewhere(member) {
			continue
		}
		f := to.FieldByName(field(name))
		if !f.IsValid() {
			continue
		}
		if err := decodeValue(value, member, f); err != nil {
			return err
		}
	}
	return nil
}

// elsewhere reports whether a member travels outside the body.
func elsewhere(member *smithy.Schema) bool {
	_, label := smithy.SchemaTrait[*traits.HTTPLabel](member)
	_, query := smithy.SchemaTrait[*traits.HTTPQuery](member)
	_, header := smithy.SchemaTrait[*traits.HTTPHeader](member)
	_, status := smithy.SchemaTrait[*traits.HTTPResponseCode](member)
	return label || query || header || status
}

func decodeValue(raw []byte, schema *smithy.Schema, to reflect.Value) error {
	to = indirect(to)
	switch to.Kind() { //nolint:exhaustive // the kinds SDK members have
	case reflect.Struct:
		return decodeStruct(raw, schema, to, false)
	case reflect.Map:
		return decodeMap(raw, schema, to)
	case reflect.Slice:
		if to.Type().Elem().Kind() == reflect.Uint8 {
			return decodeBlob(raw, to)
		}
		return decodeList(raw, schema, to)
	}
	return decodeScalar(raw, to)
}

func decodeMap(raw []byte, schema *smithy.Schema, to reflect.Value) error {
	var entries map[string]json.RawMessage
	if json.Unmarshal(raw, &entries) != nil {
		return malformed("Start of structure or map not found where expected.")
	}
	to.Set(reflect.MakeMapWithSize(to.Type(), len(entries)))
	for key, value := range entries {
		v := reflect.New(to.Type().Elem()).Elem()
		if string(value) == "null" {
			continue
		}
		if err := decodeValue(value, schema.MapValue(), v); err != nil {
			return err
		}
		to.SetMapIndex(reflect.ValueOf(key).Convert(to.Type().Key()), v)
	}
	return nil
}

func decodeList(raw []byte, schema *smithy.Schema, to reflect.Value) error {
	var entries []json.RawMessage
	if json.Unmarshal(raw, &entries) != nil {
		return malformed("Expected list or null")
	}
	to.Set(reflect.MakeSlice(to.Type(), 0, len(entries)))
	for _, value := range entries {
		v := reflect.New(to.Type().Elem()).Elem()
		if string(value) != "null" {
			if err := decodeValue(value, schema.ListMember(), v); err != nil {
				return err
			}
		}
		to.Set(reflect.Append(to, v))
	}
	return nil
}

func decodeBlob(raw []byte, to reflect.Value) error {
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return malformed("%s can not be converted to a Blob", kindOf(raw))
	}
	content, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return malformed("Blob is not valid base64")
	}
	to.SetBytes(content)
	return nil
}

func decodeScalar(raw []byte, to reflect.Value) error {
	// encoding/json refuses what does not fit: the wrong type, 1.5 or 2^31 for an int32.
	if json.Unmarshal(raw, to.Addr().Interface()) == nil {
		return nil
	}
	want := map[reflect.Kind]string{
		reflect.String: "a String", reflect.Bool: "a Boolean", reflect.Int32: "an Integer",
		reflect.Int64: "a Long", reflect.Float64: "a Double",
	}[to.Kind()]
	if kind := kindOf(raw); kind != "" {
		return malformed("%s can not be converted to %s", kind, want)
	}
	return malformed("Start of structure or map found where not expected.")
}

// kindOf names a JSON value as AWS's messages do; empty for objects and lists.
func kindOf(raw []byte) string {
	switch raw[0] {
	case '"':
		return "STRING_VALUE"
	case 't':
		return "TRUE_VALUE"
	case 'f':
		return "FALSE_VALUE"
	case '{', '[':
		return ""
	}
	return "NUMBER_VALUE"
}

// encode writes the JSON body of a response from the struct out points to and
// its other members into h. It returns the status the struct asks for, or 0.
func encode(h http.Header, schema *smithy.Schema, out any) (body []byte, status int, err error) {
	v := reflect.ValueOf(out).Elem()
	for name, member := range schema.Members() {
		if header, ok := smithy.SchemaTrait[*traits.HTTPHeader](member); ok {
			if text, ok := reflect.TypeAssert[*string](v.FieldByName(field(name))); ok && text != nil {
				h.Set(header.Name, *text)
			}
		}
		if _, ok := smithy.SchemaTrait[*traits.HTTPResponseCode](member); ok {
			status = int(v.FieldByName(field(name)).Int())
		}
	}
	var b bytes.Buffer
	if err := encodeStruct(&b, schema, v, true); err != nil {
		return nil, 0, fmt.Errorf("encoding %s: %w", schema.ID().Name, err)
	}
	return b.Bytes(), status, nil
}

// encodeStruct writes members by name, those of top that travel elsewhere not.
// What was not set is left out: nil, and enums that are empty. Zero numbers and
// empty lists were set.
func encodeStruct(b *bytes.Buffer, schema *smithy.Schema, v reflect.Value, top bool) error {
	b.WriteByte('{')
	first := true
	for _, name := range slices.Sorted(maps.Keys(schema.Members())) {
		member := schema.Member(name)
		f := v.FieldByName(field(name))
		if !f.IsValid() || top && elsewhere(member) || unset(f) {
			continue
		}
		if !first {
			b.WriteByte(',')
		}
		first = false
		encodeString(b, name)
		b.WriteByte(':')
		if err := encodeValue(b, member, f); err != nil {
			return err
		}
	}
	b.WriteByte('}')
	return nil
}

func unset(v reflect.Value) bool {
	switch v.Kind() { //nolint:exhaustive // the others are always set
	case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Interface:
		return v.IsNil()
	case reflect.String: // an enum: plain strings are pointers
		return v.Len() == 0
	}
	return false
}

func encodeValue(b *bytes.Buffer, schema *smithy.Schema, v reflect.Value) error {
	for v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	switch v.Kind() { //nolint:exhaustive // the kinds SDK members have
	case reflect.Struct:
		if t, ok := reflect.TypeAssert[time.Time](v); ok {
			return encodeTime(b, schema, t)
		}
		return encodeStruct(b, schema, v, false)
	case reflect.Map:
		return encodeMap(b, schema, v)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			encodeString(b, base64.StdEncoding.EncodeToString(v.Bytes()))
			return nil
		}
		return encodeList(b, schema, v)
	case reflect.String:
		encodeString(b, v.String())
	case reflect.Bool:
		b.WriteString(strconv.FormatBool(v.Bool()))
	case reflect.Int32, reflect.Int64:
		b.WriteString(strconv.FormatInt(v.Int(), 10))
	case reflect.Float64, reflect.Float32:
		return encodeFloat(b, v.Float())
	default:
		return fmt.Errorf("member %s of kind %s: %w", schema.MemberName(), v.Kind(), errdefs.ErrInternal)
	}
	return nil
}

func encodeMap(b *bytes.Buffer, schema *smithy.Schema, v reflect.Value) error {
	b.WriteByte('{')
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, c reflect.Value) int { return strings.Compare(a.String(), c.String()) })
	for i, key := range keys {
		if i > 0 {
			b.WriteByte(',')
		}
		encodeString(b, key.String())
		b.WriteByte(':')
		if err := encodeValue(b, schema.MapValue(), v.MapIndex(key)); err != nil {
			return err
		}
	}
	b.WriteByte('}')
	return nil
}

func encodeList(b *bytes.Buffer, schema *smithy.Schema, v reflect.Value) error {
	b.WriteByte('[')
	for i := range v.Len() {
		if i > 0 {
			b.WriteByte(',')
		}
		if err := encodeValue(b, schema.ListMember(), v.Index(i)); err != nil {
			return err
		}
	}
	b.WriteByte(']')
	return nil
}

// encodeTime writes epoch seconds, the format of JSON bodies, unless the schema
// has another. (LastModified and its kin are strings in the model.)
func encodeTime(b *bytes.Buffer, schema *smithy.Schema, t time.Time) error {
	format, ok := smithy.SchemaTrait[*traits.TimestampFormat](schema)
	switch {
	case !ok || format.Format == "epoch-seconds":
		return encodeFloat(b, float64(t.UnixMilli())/1000)
	case format.Format == "date-time":
		encodeString(b, t.UTC().Format("2006-01-02T15:04:05.999Z"))
		return nil
	}
	return fmt.Errorf("member %s has timestamp format %s: %w", schema.MemberName(), format.Format, errdefs.ErrInternal)
}

func encodeFloat(b *bytes.Buffer, f float64) error {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return fmt.Errorf("number %v: %w", f, errdefs.ErrInternal)
	}
	text := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	b.WriteString(text)
	return nil
}

func encodeString(b *bytes.Buffer, s string) {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string and a buffer do not fail
	b.Truncate(b.Len() - 1)
}
