package main

import (
	"image"
	"image/color"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"strconv"
)

// plots draws goodput and p99 against load, with and without admission, and the
// limit while the cost changes. Blue is with, red without admission.
func (r *Result) plots(dir string) error {
	goodput := func(p Phase) float64 { return p.Goodput }
	p99 := func(p Phase) float64 { return p.P99 }
	limits := make([]point, 0, len(r.Cost.Limits))
	for i, n := range r.Cost.Limits {
		limits = append(limits, point{float64(i) / 2, float64(n)})
	}
	for name, lines := range map[string][]line{
		"overload-goodput.png": {{blue(), curve(r.CPU, goodput)}, {red(), curve(r.Off, goodput)}},
		"overload-p99.png":     {{blue(), curve(r.CPU, p99)}, {red(), curve(r.Off, p99)}},
		"overload-limit.png":   {{blue(), limits}},
	} {
		if err := plot(filepath.Join(dir, name), lines); err != nil {
			return err
		}
	}
	return nil
}

func blue() color.Color { return color.RGBA{R: 30, G: 90, B: 200, A: 255} }
func red() color.Color  { return color.RGBA{R: 200, G: 40, B: 40, A: 255} }
func grey() color.Color { return color.RGBA{R: 120, G: 120, B: 120, A: 255} }

type point struct{ x, y float64 }

type line struct {
	color  color.Color
	points []point
}

func curve(phases []Phase, value func(Phase) float64) []point {
	points := make([]point, 0, len(phases))
	for _, p := range phases {
		points = append(points, point{p.Load, value(p)})
	}
	return points
}

const (
	width, height, margin = 640, 400, 48
	ticks                 = 5
)

// plot draws lines into a PNG, both axes from 0, with numbers beside them.
func plot(path string, lines []line) (err error) {
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	for i := range img.Pix {
		img.Pix[i] = 255
	}
	var most point
	for _, l := range lines {
		for _, p := range l.points {
			most = point{max(most.x, p.x), max(most.y, p.y)}
		}
	}
	most = point{max(most.x, 1), max(most.y, 1) * 1.1}
	at := func(p point) (int, int) {
		return margin + int(p.x/most.x*(width-2*margin)), height - margin - int(p.y/most.y*(height-2*margin))
	}
	for i := range ticks + 1 {
		part := float64(i) / ticks
		x, y := at(point{most.x * part, most.y * part})
		segment(img, grey(), x, height-margin, x, height-margin+5)
		segment(img, grey(), margin-5, y, margin, y)
		write(img, x-8, height-margin+10, most.x*part)
		write(img, 4, y-4, most.y*part)
	}
	segment(img, grey(), margin, height-margin, width-margin, height-margin)
	segment(img, grey(), margin, margin, margin, height-margin)
	for _, l := range lines {
		for i := 1; i < len(l.points); i++ {
			x0, y0 := at(l.points[i-1])
			x1, y1 := at(l.points[i])
			segment(img, l.color, x0, y0, x1, y1)
			segment(img, l.color, x0, y0+1, x1, y1+1)
		}
	}
	f, err := os.Create(path) //nolint:gosec // G304: where the user wants it
	if err != nil {
		return err
	}
	defer func() {
		if closed := f.Close(); err == nil {
			err = closed
		}
	}()
	return png.Encode(f, img)
}

func segment(img *image.RGBA, c color.Color, x0, y0, x1, y1 int) {
	steps := max(1, max(x1-x0, x0-x1), max(y1-y0, y0-y1))
	for i := range steps + 1 {
		part := float64(i) / float64(steps)
		img.Set(x0+int(math.Round(part*float64(x1-x0))), y0+int(math.Round(part*float64(y1-y0))), c)
	}
}

// write draws a number with three rows of five pixels a digit, twice as large.
func write(img *image.RGBA, x, y int, value float64) {
	glyphs := map[rune]string{
		'0': "111101101101111", '1': "010110010010111", '2': "111001111100111", '3': "111001111001111",
		'4': "101101111001001", '5': "111100111001111", '6': "111100111101111", '7': "111001001001001",
		'8': "111101111101111", '9': "111101111001111", '.': "000000000000010",
	}
	for _, r := range strconv.FormatFloat(math.Round(value*10)/10, 'f', -1, 64) {
		for i, bit := range glyphs[r] {
			if bit == '1' {
				for dx := range 2 {
					for dy := range 2 {
						img.Set(x+2*(i%3)+dx, y+2*(i/3)+dy, grey())
					}
				}
			}
		}
		x += 8
	}
}
