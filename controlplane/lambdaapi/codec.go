package lambdaapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/url"
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

// maxEntries is how many elements and entries the lists and maps of a request
// may have in all: AWS's service model allows some dozens.
const maxEntries = 10_000

// decode fills the struct that in points to from a request and its body.
func decode(r *http.Request, body []byte, schema *smithy.Schema, in any) error {
	query, err := queryOf(r)
	if err != nil {
		return err
	}
	target := reflect.ValueOf(in).Elem()
	inBody := false
	for name, member := range schema.Members() {
		var given []string
		if _, ok := smithy.SchemaTrait[*traits.HTTPLabel](member); ok {
			given = []string{r.PathValue(name)}
		} else if q, ok := smithy.SchemaTrait[*traits.HTTPQuery](member); ok {
			given = query[q.Name]
		} else if h, ok := smithy.SchemaTrait[*traits.HTTPHeader](member); ok {
			given = r.Header.Values(h.Name)
		} else {
			inBody = true
		}
		if len(given) > 0 {
			if err := setTexts(target.FieldByName(field(name)), given); err != nil {
				return err
			}
		}
	}
	if !inBody || len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	if !wellFormed(body) {
		return notJSON(r, malformed("Could not parse request body into json."))
	}
	d := decoder{entries: maxEntries}
	return d.structure(body, schema, target, true)
}

// queryOf returns a request's query. What cannot be decoded is refused, never
// left out.
func queryOf(r *http.Request) (url.Values, error) {
	if r.URL.RawQuery == "" {
		return nil, nil
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, badRequest("The query of the request is not valid: it could not be decoded.")
	}
	return query, nil
}

// notJSON is err, unless the reason is that the body is encoded.
func notJSON(r *http.Request, err error) error {
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return badRequest("The content encoding %.64q of the request is not supported.", encoding)
	}
	return err
}

// field is the Go name of a member.
func field(member string) string { return strings.ToUpper(member[:1]) + member[1:] }

// setTexts sets a member that travels outside the body from what was given for
// it: any number of texts for a list, else one, however often it is repeated.
func setTexts(to reflect.Value, given []string) error {
	if to.Kind() == reflect.Slice && to.Type().Elem().Kind() == reflect.String {
		if len(given) > maxEntries {
			return tooMany()
		}
		to.Set(reflect.MakeSlice(to.Type(), len(given), len(given)))
		for i, text := range given {
			to.Index(i).SetString(text)
		}
		return nil
	}
	if err := once(given); err != nil {
		return err
	}
	return setText(to, given[0])
}

// once refuses a parameter that says several things. AWS does not say what it
// makes of one.
func once(given []string) error {
	for _, text := range given[1:] {
		if text != given[0] {
			return malformed("A parameter of the request was given more than once, with different values.")
		}
	}
	return nil
}

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

// decoder reads one body, which is well-formed. How deep it goes is the
// schema's to say.
type decoder struct {
	// entries is how many more list elements and map entries there may be.
	entries int
}

// count counts an element or entry.
func (d *decoder) count() error {
	if d.entries--; d.entries < 0 {
		return tooMany()
	}
	return nil
}

func tooMany() error {
	return malformed("The lists and maps of a request may have at most %d entries in all.", maxEntries)
}

// structure reads the members that are in the body; those of top that are
// elsewhere are never taken from it. Members the schema has not are ignored; of
// one that is repeated the last counts.
func (d *decoder) structure(raw []byte, schema *smithy.Schema, to reflect.Value, top bool) error {
	ok, err := object(raw, func(name string, value []byte) error {
		member := schema.Member(name)
		if member == nil || top && elsewhere(member) {
			return nil
		}
		f := to.FieldByName(field(name))
		if !f.IsValid() {
			return nil
		}
		f.SetZero()
		if string(value) == "null" {
			return nil
		}
		return d.value(value, member, f)
	})
	return noObject(ok, err)
}

func noObject(ok bool, err error) error {
	if !ok {
		return malformed("Start of structure or map not found where expected.")
	}
	return err
}

// elsewhere reports whether a member travels outside the body.
func elsewhere(member *smithy.Schema) bool {
	_, label := smithy.SchemaTrait[*traits.HTTPLabel](member)
	_, query := smithy.SchemaTrait[*traits.HTTPQuery](member)
	_, header := smithy.SchemaTrait[*traits.HTTPHeader](member)
	_, status := smithy.SchemaTrait[*traits.HTTPResponseCode](member)
	return label || query || header || status
}

func (d *decoder) value(raw []byte, schema *smithy.Schema, to reflect.Value) error {
	to = indirect(to)
	switch to.Kind() { //nolint:exhaustive // the kinds SDK members have
	case reflect.Struct:
		return d.structure(raw, schema, to, false)
	case reflect.Map:
		return d.entriesOf(raw, schema, to)
	case reflect.Slice:
		if to.Type().Elem().Kind() == reflect.Uint8 {
			return decodeBlob(raw, to)
		}
		return d.list(raw, schema, to)
	}
	return decodeScalar(raw, to)
}

func (d *decoder) entriesOf(raw []byte, schema *smithy.Schema, to reflect.Value) error {
	to.Set(reflect.MakeMap(to.Type()))
	ok, err := object(raw, func(key string, value []byte) error {
		k := reflect.ValueOf(key).Convert(to.Type().Key())
		if string(value) == "null" {
			to.SetMapIndex(k, reflect.Value{})
			return nil
		}
		if err := d.count(); err != nil {
			return err
		}
		v := reflect.New(to.Type().Elem()).Elem()
		if err := d.value(value, schema.MapValue(), v); err != nil {
			return err
		}
		to.SetMapIndex(k, v)
		return nil
	})
	return noObject(ok, err)
}

func (d *decoder) list(raw []byte, schema *smithy.Schema, to reflect.Value) error {
	to.Set(reflect.MakeSlice(to.Type(), 0, 0))
	ok, err := array(raw, func(value []byte) error {
		if err := d.count(); err != nil {
			return err
		}
		v := reflect.New(to.Type().Elem()).Elem()
		if string(value) != "null" {
			if err := d.value(value, schema.ListMember(), v); err != nil {
				return err
			}
		}
		to.Set(reflect.Append(to, v))
		return nil
	})
	if !ok {
		return malformed("Expected list or null")
	}
	return err
}

// decodeBlob decodes from where the text is: it may be an archive.
func decodeBlob(raw []byte, to reflect.Value) error {
	if kind := kindOf(raw); kind == "" {
		return malformed("Start of structure or map found where not expected.")
	} else if kind != "STRING_VALUE" {
		return malformed("%s can not be converted to a Blob", kind)
	}
	text := raw[1 : len(raw)-1]
	if bytes.IndexByte(text, '\\') >= 0 {
		text = []byte(unquote(raw))
	}
	content := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(content, text)
	if err != nil {
		return malformed("Blob is not valid base64")
	}
	to.SetBytes(content[:n])
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
	b.WriteString(double(f))
	return nil
}

func encodeString(b *bytes.Buffer, s string) {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string and a buffer do not fail
	b.Truncate(b.Len() - 1)
}
