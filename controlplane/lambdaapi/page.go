package lambdaapi

import (
	"cmp"
	"encoding/base64"
	"regexp"
	"slices"
	"strings"

	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// markerPrefix begins what a marker says, to tell one of ours from any other
// text. A change of what follows needs another prefix.
const markerPrefix = "after\x00"

// page returns the part of an ordered list that a request asked for and the
// marker of the next part, nil at the end. The list is in the order of its keys,
// which differ. A marker is the key of the last element before: what was added
// or deleted meanwhile neither repeats elements nor hides others.
func page[T any](all []T, key func(T) string, marker *string, asked *int32, most int) (some []T, next *string, err error) {
	if marker != nil && *marker != "" {
		last, err := readMarker(*marker)
		if err != nil {
			return nil, nil, err
		}
		i, found := slices.BinarySearchFunc(all, last, func(t T, last string) int { return strings.Compare(key(t), last) })
		if found {
			i++
		}
		all = all[i:]
	}
	n := most
	if asked != nil {
		n = min(int(*asked), most)
	}
	if len(all) <= n {
		return all, nil, nil
	}
	return all[:n], new(base64.RawURLEncoding.EncodeToString([]byte(markerPrefix + key(all[n-1])))), nil
}

func readMarker(marker string) (last string, err error) {
	text, err := base64.RawURLEncoding.Strict().DecodeString(marker)
	last, ours := strings.CutPrefix(string(text), markerPrefix)
	if err != nil || !ours {
		return "", invalidParameter("Invalid value for marker: %s", marker)
	}
	return last, nil
}

const masterRegionText = `ALL|(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}`

var masterRegionPattern = regexp.MustCompile(`^(?:` + masterRegionText + `)$`)

// listReplicas lists the functions that were replicated from another region:
// there are none here.
func listReplicas(in *lambda.ListFunctionsInput) (*lambda.ListFunctionsOutput, error) {
	if in.FunctionVersion != types.FunctionVersionAll {
		return nil, invalidParameter("The combination MasterArn=%s and FunctionVersion=%s is not supported. Please see our "+
			"documentation for valid combinations of ListFunctions options.", *in.MasterRegion, cmp.Or(in.FunctionVersion, "NULL"))
	}
	return &lambda.ListFunctionsOutput{Functions: []types.FunctionConfiguration{}}, nil
}
