package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// table prints rows in columns.
type table struct{ rows [][]string }

func newTable(header ...string) *table { return &table{rows: [][]string{header}} }

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) print(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range t.rows {
		if _, err := fmt.Fprintln(tw, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return tw.Flush()
}

const dash = "-"

func orDash(s string) string {
	if s == "" {
		return dash
	}
	return s
}

// percent is part of whole, rounded; a dash when there is no whole.
func percent(part, whole int64) string {
	if whole <= 0 {
		return dash
	}
	return strconv.FormatInt((part*100+whole/2)/whole, 10) + "%"
}

// amount is what is used of a limit: 100MiB/1GiB.
func amount(used, limit int64) string {
	if limit <= 0 {
		return bytes(used) + "/" + dash
	}
	return bytes(used) + "/" + bytes(limit)
}

// bytes is a size with at most one decimal: 1.5GiB.
func bytes(n int64) string {
	size, unit := float64(n), "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if size < 1023.95 { // what would be printed as 1024
			break
		}
		size, unit = size/1024, next
	}
	return strings.TrimSuffix(strconv.FormatFloat(size, 'f', 1, 64), ".0") + unit
}

// vcpu is a number of vCPUs: 2, 0.5.
func vcpu(milli int64) string { return strconv.FormatFloat(float64(milli)/1000, 'f', -1, 64) }

// age is how long ago something was, in whole units; a dash when unknown.
func (a *app) age(t *timestamppb.Timestamp) string {
	if t == nil {
		return dash
	}
	d := max(0, a.env.Now().Sub(t.AsTime()))
	switch {
	case d < 2*time.Minute:
		return strconv.Itoa(int(d.Seconds())) + "s"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d.Minutes())) + "m"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d.Hours())) + "h"
	default:
		return strconv.Itoa(int(d.Hours()/24)) + "d"
	}
}

// moment is a time for JSON, nil when unknown.
func moment(t *timestamppb.Timestamp) *time.Time {
	if t == nil {
		return nil
	}
	at := t.AsTime().UTC()
	return &at
}
