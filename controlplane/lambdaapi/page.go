package lambdaapi

import (
	"encoding/base64"
	"slices"
)

// page returns the part of an ordered list that a request asked for and the
// marker of the next part, nil at the end. A marker is the key of the last
// element before; it need not exist any more.
func page[T any](all []T, key func(T) string, marker *string, asked *int32, most int) (some []T, next *string, err error) {
	if marker != nil && *marker != "" {
		last, err := base64.RawURLEncoding.DecodeString(*marker)
		if err != nil {
			return nil, nil, invalidParameter("Invalid value for marker: %s", *marker)
		}
		i := slices.IndexFunc(all, func(t T) bool { return key(t) == string(last) })
		if i < 0 {
			i = slices.IndexFunc(all, func(t T) bool { return key(t) > string(last) }) - 1
		}
		if i < -1 {
			i = len(all) - 1
		}
		all = all[i+1:]
	}
	n := most
	if asked != nil {
		n = min(int(*asked), most)
	}
	if len(all) <= n {
		return all, nil, nil
	}
	return all[:n], new(base64.RawURLEncoding.EncodeToString([]byte(key(all[n-1])))), nil
}
