"""From predictions to figures: metrics, intervals, fairness, tables, pictures and reports."""
