/** CRC-32C, which zarrita strips and does not compare: here a chunk that is not what was written is an error. */

import { ReadError } from "./store.ts";

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1;
  return value;
});

export function crc32c(bytes: Uint8Array): number {
  let value = 0xffffffff;
  for (let at = 0; at < bytes.length; at += 1) value = (value >>> 8) ^ TABLE[(value ^ bytes[at]!) & 0xff]!;
  return (value ^ 0xffffffff) >>> 0;
}

/** The codec by the interface that zarrita's registry asks for. */
export class CheckedCrc32c {
  readonly kind = "bytes_to_bytes";
  static fromConfig(): CheckedCrc32c {
    return new CheckedCrc32c();
  }
  encode(): never {
    throw new Error("nothing is written");
  }
  decode(bytes: Uint8Array): Uint8Array {
    if (bytes.length < 4) throw new ReadError("is damaged: it is too short for its checksum");
    const content = bytes.subarray(0, bytes.length - 4);
    const recorded = new DataView(bytes.buffer, bytes.byteOffset + content.length, 4).getUint32(0, true);
    if (crc32c(content) !== recorded) throw new ReadError("is damaged: its checksum (CRC-32C) does not fit");
    return content;
  }
  computeEncodedSize(size: number): number {
    return size + 4;
  }
}
