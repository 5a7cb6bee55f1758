// What src/ui/vendor/ui-runtime.js exports, told in the types of the packages that it is made from.
import { h } from "preact";

export { h, render, Fragment, createContext } from "preact";
export { useState, useEffect, useLayoutEffect, useRef, useMemo, useCallback, useContext } from "preact/hooks";
export { signal, computed, effect, batch, untracked, useSignal, useComputed, useSignalEffect } from "@preact/signals";
export function html(strings: TemplateStringsArray, ...values: any[]): ReturnType<typeof h>;
export type { Signal, ReadonlySignal } from "@preact/signals";
