/** Which byte ranges to ask for together. */

export interface Span {
  readonly offset: number;
  readonly length: number;
}

export interface Merged<S extends Span> extends Span {
  readonly members: readonly S[];
}

/** Ranges that take longer to ask for than to read with their neighbours: 32 kB are what a request costs on a slow line. */
export const LARGEST_GAP = 32 * 1024;
/** A larger answer would hold up what is asked for meanwhile. */
export const LARGEST_REQUEST = 4 * 1024 * 1024;

/** Merge ranges that are neighbours, or nearly so, in one file. */
export function merged<S extends Span>(spans: readonly S[], gap = LARGEST_GAP, most = LARGEST_REQUEST): Merged<S>[] {
  const found: { offset: number; end: number; members: S[] }[] = [];
  for (const span of [...spans].sort((a, b) => a.offset - b.offset)) {
    const last = found.at(-1);
    const end = span.offset + span.length;
    if (last && span.offset - last.end <= gap && Math.max(end, last.end) - last.offset <= most) {
      last.end = Math.max(last.end, end);
      last.members.push(span);
    } else found.push({ offset: span.offset, end, members: [span] });
  }
  return found.map(({ offset, end, members }) => ({ offset, length: end - offset, members }));
}
